"""Train the judge of captions and pictures, on real drawings alone.

    python -m scripts.builtin.train_scorer --data data/builtin

Every concept is seen, also those the generator never sees: the judge has to know what was asked
for. The single styles that heldout.yaml keeps from the generator are kept from the judge too, and
tell how good it is: it picks the caption of each among 100. Drawings are seen moved, scaled and
blurred. The features are computed once and kept (`scorer-features.pt`); the rest takes a minute.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageFilter
from safetensors.torch import save_file
from torch import Tensor

from scripts.builtin.captions import Row, caption, prompt
from scripts.builtin.dataset import SIZE, Pixels, load_rows
from scripts.builtin.scorer import WEIGHTS, Scorer, ids_of, pooled_features, tokenizer
from scripts.builtin.training import held_rate, load_checkpoint, save_checkpoint, shipped

SEED = 77
VIEWS = 6  # of each drawing; the first one is the drawing itself
SCALES = (0.8, 1.0)
BLUR = 1.5  # pixels, at most
TEMPERATURE = 0.05
CHOICES = 100


def view(picture: Pixels, rng: np.random.Generator) -> Pixels:
    """The drawing on white, smaller, moved and a little blurred."""
    side = round(SIZE * rng.uniform(*SCALES))
    left, top = (int(rng.integers(0, SIZE - side + 1)) for _ in range(2))
    page = Image.new("RGB", (SIZE, SIZE), "white")
    page.paste(Image.fromarray(picture).resize((side, side), Image.Resampling.LANCZOS), (left, top))
    return np.asarray(page.filter(ImageFilter.GaussianBlur(rng.uniform(0, BLUR))))


def features_of(data: Path) -> Tensor:
    """Features (N, VIEWS, F) of every drawing, computed once."""
    path = data / "scorer-features.pt"
    state = load_checkpoint(path)
    if state is None:
        images = np.load(data / "images.npy", mmap_mode="r")
        rng = np.random.default_rng(SEED)
        parts = []
        for number, image in enumerate(images):
            views = [image, *(view(image, rng) for _ in range(VIEWS - 1))]
            parts.append(pooled_features(views))
            if (number + 1) % 200 == 0:
                print(f"features of {number + 1} of {len(images)}", file=sys.stderr, flush=True)
        state = {"features": torch.stack(parts)}
        save_checkpoint(path, state)
    features: Tensor = state["features"]
    return features


@torch.inference_mode()
def accuracy(scorer: Scorer, features: Tensor, rows: list[Row], seed: int = 0) -> float:
    """How often a drawing's own caption scores best among CHOICES, the others drawn at random."""
    rng = np.random.default_rng(seed)
    scores = scorer.pictures(features) @ scorer.captions(ids_of([prompt(row) for row in rows])).T
    right = 0
    for number in range(len(rows)):
        others = [i for i in rng.permutation(len(rows)) if i != number][: CHOICES - 1]
        right += bool((scores[number, number] > scores[number, others]).all())
    return right / len(rows)


def main() -> None:
    """Train, say how good it is, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("data/builtin"))
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    args = parser.parse_args()
    torch.manual_seed(SEED)
    rows = load_rows(args.data)
    features = features_of(args.data)
    kept = np.array([i for i, row in enumerate(rows) if not row["heldout_style"]])
    unseen = [i for i, row in enumerate(rows) if row["heldout_style"]]
    scorer = Scorer(tokenizer().get_vocab_size())
    scorer.whiten(features[kept])
    optimizer = torch.optim.AdamW(scorer.parameters(), lr=args.lr, weight_decay=0.05)
    for step in range(args.steps):
        rng = np.random.default_rng((SEED, step))
        chosen = rng.choice(kept, args.batch, replace=False)
        seen = features[chosen, rng.integers(0, VIEWS, len(chosen))]
        for group in optimizer.param_groups:
            group["lr"] = held_rate(step, args.steps, args.lr, 100, args.steps // 2)
        texts = scorer.captions(ids_of([caption(rows[i], rng) for i in chosen]))
        scores = scorer.pictures(seen) @ texts.T / TEMPERATURE
        # the other style of a concept may be in the batch: its caption is not wrong
        concepts = np.array([rows[i]["concept"] for i in chosen])
        same = torch.from_numpy(concepts[:, None] == concepts[None])
        scores = scores.masked_fill(same & ~torch.eye(len(chosen), dtype=torch.bool), -torch.inf)
        own = torch.arange(len(chosen))
        loss = F.cross_entropy(scores, own) + F.cross_entropy(scores.T, own)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if (step + 1) % 250 == 0 or step + 1 == args.steps:
            scorer.eval()
            found = accuracy(scorer, features[unseen, 0], [rows[i] for i in unseen])
            known = [int(i) for i in kept[:: len(kept) // len(unseen)]]
            trained = accuracy(scorer, features[known, 0], [rows[i] for i in known])
            print(
                f"step {step + 1} loss {loss.item():.3f}; own caption first among {CHOICES}: "
                f"{found:.3f} of {len(unseen)} unseen drawings, {trained:.3f} of seen ones",
                file=sys.stderr,
                flush=True,
            )
            scorer.train()
    save_file(shipped(scorer.state_dict()), args.out)
    print(f"{args.out.stat().st_size / 1e6:.2f} MB in {args.out}")


if __name__ == "__main__":
    main()
