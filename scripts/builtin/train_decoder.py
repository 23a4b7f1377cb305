"""Go on training the picture tokenizer's decoder alone, for sharper pictures.

    python -m scripts.builtin.train_decoder --data data/builtin

The encoder stays as it is, so no bit of any picture changes. Beside the tokenizer's own losses
the decoder is pulled towards the feature maps of an ImageNet network (extra `eval`), and half of
the pictures reach it with some of their finer bits flipped, as a transformer gets them wrong; and
peaks in its maps, which show as neon fringes, are kept small (peaks.py).
Resumable as the other trainings are; writes `vae.safetensors` next to the tokenizer's checkpoint.
With `--from-shipped` the decoder in the package goes on instead of the one just trained.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from scalekv.configs.models import model_named
from scalekv.infinity_patch.evaluation.backbone import backbone, feature_distance
from scalekv.infinity_patch.files.hub import BUILT_IN
from scalekv.infinity_patch.model.autoencoder import Autoencoder
from scalekv.infinity_patch.model.quantiser import quantise_latents, vae_sizes
from scalekv.infinity_patch.schedules import schedule_for
from scripts.builtin.captions import training_rows
from scripts.builtin.compositions import Composer, stacked
from scripts.builtin.dataset import PIXELS, load_rows
from scripts.builtin.losses import picture_loss
from scripts.builtin.peaks import watched
from scripts.builtin.training import (
    Averaged,
    held_rate,
    in_float,
    load_checkpoint,
    save_checkpoint,
    shipped,
)

PERCEPTUAL = 0.1
MIXED = 0.75  # what is written lies so far from the tokenizer's decoder to the new one: PSNR stays
MIXED_SHIPPED = 1.0  # from a decoder with peaks no way back is wanted
COMPOSED = 1  # of the pictures of a batch
FLIPPED = 0.5  # share of the pictures with flipped bits
FLIPS = 0.15  # of those, the largest share of bits flipped in a scale
FLIPPED_SCALES = 3  # the last ones


def main() -> None:
    """Train, or go on training."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("data/builtin"))
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--cooldown", type=int, default=400, help="steps the rate falls over")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--lr", type=float, default=4e-4)
    parser.add_argument("--decay", type=float, default=0.99, help="of the averaged weights")
    parser.add_argument("--perceptual", type=float, default=PERCEPTUAL, help="weight of features")
    parser.add_argument(
        "--from-shipped", action="store_true", help="begin with the weights in the package"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()

    torch.manual_seed(0)
    torch.set_flush_denormal(True)
    preset = model_named("emoji")
    device = torch.device(args.device)
    sizes = vae_sizes(schedule_for("1:1", PIXELS).scales, preset.tokenizer.patchify)
    rows = load_rows(args.data)
    places = {row["id"]: i for i, row in enumerate(rows)}
    kept = np.array([places[row["id"]] for row in training_rows(rows)])
    images = np.load(args.data / "images.npy", mmap_mode="r")
    composer = Composer(args.data, training_rows(rows))
    model = Autoencoder(preset.tokenizer)
    if args.from_shipped:
        base, mixed_by = in_float(BUILT_IN / "emoji" / "vae.safetensors"), MIXED_SHIPPED
    else:
        trained = load_checkpoint(args.data / "tokenizer" / "tokenizer.pt")
        assert trained is not None, "train the tokenizer before its decoder alone"
        base, mixed_by = trained["average"], MIXED
    model.load_state_dict(base)
    model.requires_grad_(False).to(device).decoder.requires_grad_(True)
    features = backbone().to(device)
    parameters = dict(model.decoder.named_parameters())
    optimizer = torch.optim.AdamW(parameters.values(), lr=args.lr, betas=(0.9, 0.95))
    average = Averaged(parameters, args.decay)
    checkpoint = args.data / "tokenizer" / "decoder.pt"
    state = load_checkpoint(checkpoint)
    first = 0
    if state is not None:
        model.decoder.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        average.values = {n: state["average"][n].to(device) for n in parameters}
        first = state["step"]

    def save(step: int) -> None:
        save_checkpoint(
            checkpoint,
            {
                "model": model.decoder.state_dict(),
                "average": average.values,
                "optimizer": optimizer.state_dict(),
                "step": step,
            },
        )
        mixed = dict(base)
        for name, value in average.values.items():
            before = mixed[f"decoder.{name}"]
            mixed[f"decoder.{name}"] = before.lerp(value.cpu(), mixed_by)
        save_file(shipped(mixed), args.data / "tokenizer" / "vae.safetensors")

    stopped = False

    def stop(signum: int, frame: object) -> None:
        nonlocal stopped
        stopped = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    start = time.time()
    seen: list[tuple[float, float, float]] = []
    for step in range(first, args.steps):
        rng = np.random.default_rng((2, step))
        noise = torch.Generator().manual_seed(step)
        plain = [images[i] for i in rng.choice(kept, args.batch - COMPOSED, replace=False)]
        composed = stacked([composer.draw(rng) for _ in range(COMPOSED)])
        batch = torch.from_numpy(np.concatenate([np.stack(plain), composed])).to(device)
        # contiguous: group norm's backward is far slower on channels-last memory
        x = batch.permute(0, 3, 1, 2).contiguous().float() / 127.5 - 1
        flipped = torch.rand((len(x), 1, 1, 1), generator=noise) < FLIPPED
        share = flipped * torch.rand((len(x), 1, 1, 1), generator=noise) * FLIPS

        def flip(
            scale: int, bits: Tensor, share: Tensor = share, noise: torch.Generator = noise
        ) -> Tensor:
            if scale < len(sizes) - FLIPPED_SCALES:
                return bits
            mask = torch.rand(bits.shape, generator=noise) < share
            return bits ^ mask.to(bits.device)

        for group in optimizer.param_groups:
            group["lr"] = held_rate(step, args.steps, args.lr, 20, args.cooldown)
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16):
            latent = model.encode(x).float()
        total = quantise_latents(latent, sizes, flip).total
        with torch.autocast(device.type, torch.bfloat16):
            with watched(model.decoder) as peaks:
                y = model.decoder(total).float()
            beyond = peaks.take()
            with torch.no_grad():
                goal = features.stages(x)
            maps = features.stages(y.clamp(-1.1, 1.1))
        far = feature_distance([m.float() for m in maps], [m.float() for m in goal]).mean()
        loss = picture_loss(y, x, beyond) + args.perceptual * far
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters.values(), 1.0)
        optimizer.step()
        average.update(parameters, step)
        error = (y.detach().clamp(-1, 1) - x).div(2).pow(2).mean((1, 2, 3)).log10().mean()
        seen.append((-10 * float(error), float(far.detach()), float(beyond.detach())))
        if (step + 1) % 25 == 0:
            psnr, distance, peak = np.mean(seen, axis=0)
            rate = (step + 1 - first) / (time.time() - start)
            print(
                f"step {step + 1} psnr {psnr:.2f} dB features {distance:.4f} peaks {peak:.1f} "
                f"{1 / rate:.2f} s/step",
                file=sys.stderr,
                flush=True,
            )
            seen.clear()
        if (step + 1) % 50 == 0 or step + 1 == args.steps or stopped:
            save(step + 1)
        if stopped:
            print(f"stopped after step {step + 1}", file=sys.stderr)
            break
    if first >= args.steps:
        save(first)


if __name__ == "__main__":
    main()
