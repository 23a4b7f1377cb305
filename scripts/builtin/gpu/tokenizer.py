"""The picture tokenizer, trained on at 256 pixels with some pictures at 128.

Losses as in train_tokenizer.py and train_decoder.py together: pixels, edges, commitment, feature
maps, peaks. Some pictures reach the decoder with finer bits flipped, as a transformer gets them
wrong. Knows pictures and latents; nothing of text or the transformer.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from scalekv.configs.models import ModelPreset
from scalekv.infinity_patch.evaluation.backbone import feature_distance, read_backbone
from scalekv.infinity_patch.model.autoencoder import Autoencoder
from scalekv.infinity_patch.model.quantiser import quantise_latents, vae_sizes
from scalekv.infinity_patch.schedules import schedule_for
from scripts.builtin.bundle import BACKBONE
from scripts.builtin.gpu.clock import Every, Stop, TimeLimit, rate_at
from scripts.builtin.gpu.files import VAE, save_tensors
from scripts.builtin.gpu.pictures import Pictures
from scripts.builtin.gpu.start import Weights
from scripts.builtin.losses import picture_loss
from scripts.builtin.peaks import watched
from scripts.builtin.train_tokenizer import COMMITMENT
from scripts.builtin.training import Averaged, load_checkpoint, save_checkpoint

CLASSES = ("0.25M", "0.06M")
"""Pixel classes the model draws: 256 and 128 pixels, ten scales and seven."""

ENCODER_RATE = 0.25  # of the decoder's: what bits mean should change little
PERCEPTUAL = 0.06
SMALL = 0.3  # share of the steps at 128 pixels, with four times the pictures
COMPOSED = 0.15  # share of the pictures
FLIPPED, FLIPS, FLIPPED_SCALES = 0.5, 0.15, 3  # as in train_decoder.py
DECAY = 0.998


@dataclass(frozen=True)
class Trained:
    """Averaged tensors by name, and what was measured: held-out PSNR in dB by pixel class."""

    tensors: dict[str, Tensor]
    log: dict[str, Any]


def sizes_of(pixels: str) -> list[tuple[int, int]]:
    """The latent maps of a pixel class, which has no patchify here."""
    return vae_sizes(schedule_for("1:1", pixels).scales, patchify=False)


def as_input(pictures: Tensor, pixels: str) -> Tensor:
    """uint8 (N, 256, 256, 3) to (N, 3, side, side) in [-1, 1], of the size of a pixel class."""
    x = pictures.permute(0, 3, 1, 2).contiguous().float() / 127.5 - 1
    return x if pixels == CLASSES[0] else F.avg_pool2d(x, 2)


def flipper(share: Tensor, scales: int, noise: torch.Generator) -> Any:
    """Flips up to `share` (N, 1, 1, 1) of the bits of the finest scales."""

    def flip(scale: int, bits: Tensor) -> Tensor:
        if scale < scales - FLIPPED_SCALES:
            return bits
        return bits ^ (torch.rand(bits.shape, generator=noise, device=bits.device) < share)

    return flip


@torch.no_grad()
def held_out_psnr(model: Autoencoder, pictures: Pictures, device: torch.device, batch: int) -> Any:
    """Mean PSNR in dB of held-out drawings against their reconstructions, by pixel class."""
    found = {}
    for pixels in CLASSES:
        each = []
        for begin in range(0, len(pictures.held), batch):
            chosen = torch.from_numpy(pictures.images[pictures.held[begin : begin + batch]])
            x = as_input(chosen.to(device), pixels)
            with torch.autocast(device.type, torch.bfloat16):
                latent = model.encode(x).float()
                y = model.decoder(quantise_latents(latent, sizes_of(pixels)).total).float()
            each.append(-10 * (y.clamp(-1, 1) - x).div(2).square().mean((1, 2, 3)).log10())
        found[pixels] = round(float(torch.cat(each).mean()), 3)
    return found


def train(
    pictures: Pictures,
    weights: Weights,
    preset: ModelPreset,
    bundle: Path,
    work: Path,
    out: Path,
    *,
    device: torch.device,
    seconds: float,
    deadline: float,
    batch: int,
    rate: float,
    stop: Stop,
) -> Trained:
    """Train, or go on training, for so many seconds in all; see `TimeLimit`."""
    model = Autoencoder(preset.tokenizer).to(device)
    model.load_state_dict(weights.vae)
    parameters = dict(model.named_parameters())
    groups = [
        {"params": list(model.encoder.parameters()), "share": ENCODER_RATE},
        {"params": list(model.decoder.parameters()), "share": 1.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.95))
    average = Averaged(parameters, DECAY)
    checkpoint = work / "tokenizer.pt"
    state = load_checkpoint(checkpoint)
    step, spent = 0, 0.0
    log: dict[str, Any] = {"steps": []}
    if state is not None:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        average.values = {n: state["average"][n].to(device) for n in parameters}
        step, spent, log = state["step"], state["spent"], state["log"]
    features = read_backbone(bundle / BACKBONE).to(device)
    if "before" not in log:
        log["before"] = held_out_psnr(model, pictures, device, batch)
    clock = TimeLimit(seconds, spent, deadline)

    def save(done: bool) -> None:
        save_checkpoint(
            checkpoint,
            {
                "model": model.state_dict(),
                "average": average.values,
                "optimizer": optimizer.state_dict(),
                "step": step,
                "spent": seconds if done else clock.spent,
                "log": log,
            },
        )
        save_tensors(out / VAE, average.values, weights.scales)

    drawn = np.array(pictures.drawn)
    due, seen = Every(60), torch.zeros(4, device=device)
    since = 0
    while (share := clock.share) < 1 and not stop.asked:
        rng = np.random.default_rng((4, step))
        noise = torch.Generator(device).manual_seed(step)
        pixels = CLASSES[int(rng.random() < SMALL)]
        sizes = sizes_of(pixels)
        count = batch * (1 if pixels == CLASSES[0] else 4)
        composed = round(count * COMPOSED) if pictures.captions else 0
        chosen = np.concatenate(
            [
                rng.choice(drawn, count - composed),
                pictures.composed + rng.integers(0, max(len(pictures.captions), 1), composed),
            ]
        )
        x = as_input(torch.from_numpy(pictures.images[chosen]).to(device), pixels)
        flipped = torch.rand((count, 1, 1, 1), generator=noise, device=device) < FLIPPED
        flips = flipped * torch.rand((count, 1, 1, 1), generator=noise, device=device) * FLIPS
        for group in optimizer.param_groups:
            group["lr"] = rate * group["share"] * rate_at(share, step)
        with torch.autocast(device.type, torch.bfloat16):
            latent = model.encode(x).float()
        total = quantise_latents(latent.detach(), sizes, flipper(flips, len(sizes), noise)).total
        through = latent + (total - latent).detach()
        with torch.autocast(device.type, torch.bfloat16):
            with watched(model.decoder) as peaks:
                y = model.decoder(through).float()
            beyond = peaks.take()
            with torch.no_grad():
                goal = features.stages(x)
            maps = features.stages(y.clamp(-1.1, 1.1))
        far = feature_distance([m.float() for m in maps], [m.float() for m in goal]).mean()
        apart = (latent - total).square().mean((1, 2, 3))
        commitment = (apart * ~flipped.flatten()).sum() / (~flipped).sum().clamp_min(1)
        loss = picture_loss(y, x, beyond) + COMMITMENT * commitment + PERCEPTUAL * far
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters.values(), 1.0)
        optimizer.step()
        average.update(parameters, step)
        step += 1
        since += 1
        with torch.no_grad():
            psnr = -10 * (y.clamp(-1, 1) - x).div(2).square().mean((1, 2, 3)).log10().mean()
            seen += torch.stack([loss, psnr, far, beyond])
        if step % 50 == 0 or due():
            report(log, step, share, seen / since)
            seen.zero_()
            since = 0
            save(done=False)
    if since:
        report(log, step, clock.share, seen / since)
    save(done=clock.share >= 1)
    stop.leave()
    model.load_state_dict(average.values)
    log["held_out"] = held_out_psnr(model, pictures, device, batch)
    print(f"tokenizer: held-out PSNR {log['before']} to {log['held_out']}", file=sys.stderr)
    return Trained(dict(average.values), log)


def report(log: dict[str, Any], step: int, share: float, means: Tensor) -> None:
    """Keep and print what the last steps came to."""
    loss, psnr, far, beyond = (round(value, 4) for value in means.tolist())
    if not np.isfinite(loss):
        raise SystemExit(f"tokenizer: the loss is {loss} at step {step}; the last save is whole")
    row = {"step": step, "share": round(share, 3), "loss": loss, "psnr": psnr}
    log["steps"].append(row | {"features": far, "peaks": beyond})
    print(f"tokenizer {row} features {far} peaks {beyond}", file=sys.stderr, flush=True)
