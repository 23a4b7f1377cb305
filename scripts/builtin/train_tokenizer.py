"""Train the built-in model's picture tokenizer.

    python -m scripts.builtin.train_tokenizer --data data/builtin --out data/builtin/tokenizer

Resumable: a second call goes on from the last checkpoint. Writes `vae.safetensors` (averaged
weights, bfloat16).
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from scalekv.configs.models import model_named
from scalekv.infinity_patch.model.autoencoder import Autoencoder
from scalekv.infinity_patch.model.quantiser import quantise_latents, vae_sizes
from scalekv.infinity_patch.schedules import schedule_for
from scripts.builtin.captions import is_held_out
from scripts.builtin.dataset import PIXELS, load_rows
from scripts.builtin.losses import picture_loss
from scripts.builtin.peaks import watched
from scripts.builtin.training import (
    Averaged,
    learning_rate,
    load_checkpoint,
    save_checkpoint,
    shipped,
)

COMMITMENT = 0.25  # keeps the encoder's output at the size that sums of unit codes can reach
BYPASS = 0.7  # share of pictures at the start
BYPASS_STEPS = 400


def main() -> None:
    """Train, or go on training."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("data/builtin"))
    parser.add_argument("--out", type=Path, default=Path("data/builtin/tokenizer"))
    parser.add_argument("--steps", type=int, default=2200)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--lr", type=float, default=8e-4)
    parser.add_argument("--decay", type=float, default=0.998)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()

    torch.manual_seed(0)
    torch.set_flush_denormal(True)
    preset = model_named("emoji")
    device = torch.device(args.device)
    sizes = vae_sizes(schedule_for("1:1", PIXELS).scales, preset.tokenizer.patchify)
    rows = load_rows(args.data)
    kept = np.array([i for i, row in enumerate(rows) if not is_held_out(row)])
    images = np.load(args.data / "images.npy", mmap_mode="r")
    model = Autoencoder(preset.tokenizer).to(device)
    checkpoint = args.out / "tokenizer.pt"
    state = load_checkpoint(checkpoint)
    first = 0
    if state is not None:
        model.load_state_dict(state["model"])
        first = state["step"]
    parameters = dict(model.named_parameters())
    optimizer = torch.optim.AdamW(parameters.values(), lr=args.lr, betas=(0.9, 0.95))
    average = Averaged(parameters, args.decay)
    if state is not None:
        optimizer.load_state_dict(state["optimizer"])
        average.values = {n: state["average"][n].to(device) for n in parameters}

    def save(step: int) -> None:
        save_checkpoint(
            checkpoint,
            {
                "model": model.state_dict(),
                "average": average.values,
                "optimizer": optimizer.state_dict(),
                "step": step,
            },
        )
        save_file(shipped(average.values), args.out / "vae.safetensors")

    args.out.mkdir(parents=True, exist_ok=True)
    start, seen = time.time(), 0.0
    for step in range(first, args.steps):
        rng = np.random.default_rng((0, step))
        noise = torch.Generator().manual_seed(step)
        batch = np.stack([images[i] for i in rng.choice(kept, args.batch, replace=False)])
        # contiguous: group norm's backward is far slower on channels-last memory
        x = torch.from_numpy(batch).to(device).permute(0, 3, 1, 2).contiguous().float() / 127.5 - 1
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, args.steps, args.lr, 50)
        with torch.autocast(device.type, torch.bfloat16):
            latent = model.encode(x).float()
        q = quantise_latents(latent, sizes)
        # early on, most pictures skip the quantiser, so that colour is found before bits are
        bypass = torch.rand(len(x), 1, 1, 1, generator=noise) < BYPASS * (1 - step / BYPASS_STEPS)
        through = latent + torch.where(bypass.to(device), 0.0, (q.total - latent).detach())
        with torch.autocast(device.type, torch.bfloat16):
            with watched(model.decoder) as peaks:
                y = model.decoder(through).float()
            beyond = peaks.take()
        loss = picture_loss(y, x, beyond) + COMMITMENT * F.mse_loss(latent, q.total)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters.values(), 1.0)
        optimizer.step()
        average.update(parameters, step)
        seen += float((y.detach().clamp(-1, 1) - x).div(2).pow(2).mean((1, 2, 3)).log10().mean())
        if (step + 1) % 50 == 0:
            rate = (step + 1 - first) * args.batch / (time.time() - start)
            print(
                f"step {step + 1} psnr {-10 * seen / 50:.2f} dB {rate:.1f} pictures/s",
                file=sys.stderr,
                flush=True,
            )
            seen = 0.0
        if (step + 1) % 250 == 0 or step + 1 == args.steps:
            save(step + 1)


if __name__ == "__main__":
    main()
