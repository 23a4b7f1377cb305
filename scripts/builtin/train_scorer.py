"""Train the judge of what pictures show, on drawings alone.

    python -m scripts.builtin.train_scorer --data data/builtin

Every concept is seen, also those the generator never sees: the judge has to know what was asked
for. The single styles that heldout.yaml keeps from the generator are kept from the judge too, and
tell how good it is: it picks the concept of each among 100. Drawings are seen as they are, moved,
scaled and blurred, and as the picture tokenizer gives them back without the last scale and with
bits of the finer scales flipped: what is lost so should not count. The features are computed once
and kept (`scorer-features.pt`); the rest takes seconds.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor

from scalekv.configs.models import model_named
from scalekv.infinity_patch.evaluation.backbone import as_input
from scalekv.infinity_patch.files.hub import BUILT_IN
from scalekv.infinity_patch.model.autoencoder import Autoencoder
from scalekv.infinity_patch.model.quantiser import codes, quantise_latents, resize, vae_sizes
from scalekv.infinity_patch.schedules import schedule_for
from scripts.builtin.captions import Row
from scripts.builtin.dataset import PIXELS, SIZE, Pixels, load_rows
from scripts.builtin.scorer import WEIGHTS, Scorer, load_scorer, pooled_features
from scripts.builtin.training import in_float, load_checkpoint, save_checkpoint

SEED = 77
VIEWS = ("as it is", "moved", "moved again", "without the last scale", "with bits flipped")
SCALES = (0.8, 1.0)
BLUR = 1.5  # pixels, at most
FLIPS = 0.25  # the largest share of bits flipped in a scale
FIRST_FLIPPED = 3  # scales before it decide what is drawn
CHOICES = 100
TOGETHER = 8  # drawings


def moved(picture: Pixels, rng: np.random.Generator) -> Pixels:
    """The drawing on white, smaller, moved and a little blurred."""
    side = round(SIZE * rng.uniform(*SCALES))
    left, top = (int(rng.integers(0, SIZE - side + 1)) for _ in range(2))
    page = Image.new("RGB", (SIZE, SIZE), "white")
    page.paste(Image.fromarray(picture).resize((side, side), Image.Resampling.LANCZOS), (left, top))
    return np.asarray(page.filter(ImageFilter.GaussianBlur(rng.uniform(0, BLUR))))


class Tokenizer:
    """The shipped picture tokenizer, as something that loses details."""

    def __init__(self) -> None:
        preset = model_named("emoji")
        self.sizes = vae_sizes(schedule_for("1:1", PIXELS).scales, False)
        self.vae = Autoencoder(preset.tokenizer)
        self.vae.load_state_dict(in_float(BUILT_IN / "emoji" / "vae.safetensors"))
        self.noise = torch.Generator().manual_seed(SEED)

    def flip(self, scale: int, bits: Tensor) -> Tensor:
        """Bits of a finer scale, some of them flipped."""
        share = torch.rand((len(bits), 1, 1, 1), generator=self.noise) * FLIPS
        mask = torch.rand(bits.shape, generator=self.noise) < share
        return bits ^ mask if scale >= FIRST_FLIPPED else bits

    @torch.inference_mode()
    def worse(self, pictures: Sequence[Pixels]) -> tuple[Pixels, Pixels]:
        """Pictures given back without the last scale, and with bits flipped, (B, H, W, 3) each."""
        with torch.autocast("cpu", torch.bfloat16):
            latent = self.vae.encode(as_input(pictures)).float()
            coarse = quantise_latents(latent, self.sizes, lambda scale, bits: bits).bits[:-1]
            without = torch.stack([resize(codes(b), self.sizes[-1]) for b in coarse]).sum(0)
            flipped = quantise_latents(latent, self.sizes, self.flip).total
            both = self.vae.decode(torch.cat([without, flipped])).float()
        drawn = both.clamp(-1, 1).add(1).mul(127.5).round().byte().permute(0, 2, 3, 1).numpy()
        return drawn[: len(pictures)], drawn[len(pictures) :]


def features_of(data: Path) -> Tensor:
    """Features (N, VIEWS, F) of every drawing, computed once."""
    path = data / "scorer-features.pt"
    state = load_checkpoint(path)
    if state is None:
        images = np.load(data / "images.npy", mmap_mode="r")
        rng = np.random.default_rng(SEED)
        tokenizer = Tokenizer()
        parts = []
        for start in range(0, len(images), TOGETHER):
            batch = images[start : start + TOGETHER]
            views = [batch, *([moved(p, rng) for p in batch] for _ in range(2))]
            views += tokenizer.worse(batch)
            parts.append(torch.stack([pooled_features(view) for view in views], dim=1))
            if start % 400 == 0:
                print(f"features of {start} of {len(images)}", file=sys.stderr, flush=True)
        state = {"features": torch.cat(parts)}
        save_checkpoint(path, state)
    features: Tensor = state["features"]
    return features


def accuracy(scorer: Scorer, features: Tensor, rows: Sequence[Row]) -> float:
    """How often a drawing's own concept scores best among CHOICES of these rows' concepts."""
    rng = np.random.default_rng(0)
    scores = scorer.pictures(features) @ scorer.captions([row["concept"] for row in rows]).T
    right = 0
    for number, row in enumerate(rows):
        others = [i for i, other in enumerate(rows) if other["concept"] != row["concept"]]
        drawn = rng.choice(others, CHOICES - 1, replace=False)
        right += bool((scores[number, number] > scores[number, drawn]).all())
    return right / len(rows)


def main() -> None:
    """Train, say how good it is, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("data/builtin"))
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    args = parser.parse_args()
    rows = load_rows(args.data)
    features = features_of(args.data)
    kept = [i for i, row in enumerate(rows) if not row["heldout_style"]]
    unseen = [i for i, row in enumerate(rows) if row["heldout_style"]]
    seen = [rows[i] for i in kept]
    Scorer.fitted(
        features[kept], [row["concept"] for row in seen], [row["style"] for row in seen]
    ).save(args.out)
    scorer = load_scorer(args.out)
    known = kept[:: len(kept) // len(unseen)]
    print(f"own concept first among {CHOICES}, of {len(unseen)} unseen drawings and of seen ones")
    for number, name in enumerate(VIEWS):
        found, trained = (
            accuracy(scorer, features[group, number], [rows[i] for i in group])
            for group in (unseen, known)
        )
        print(f"{name}: {found:.3f}, {trained:.3f}")
    print(f"{args.out.stat().st_size / 1e6:.2f} MB in {args.out}")


if __name__ == "__main__":
    main()
