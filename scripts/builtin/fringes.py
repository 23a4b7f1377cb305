"""Where the neon fringes of the built-in model's pictures come from.

    python -m scripts.builtin.fringes --data data/builtin

Held-out drawings go to bits and back, as they are and with one thing changed each time; for each
way: PSNR, how large the largest value of the decoder's last norm is, and how wrong colour is around
it, elsewhere and in the four corners. Where the largest value moves, the fringe moves; where it is
small, there is none.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from scalekv.configs.models import model_named
from scalekv.infinity_patch.evaluation.backbone import as_input
from scalekv.infinity_patch.files.hub import BUILT_IN
from scalekv.infinity_patch.model.autoencoder import Autoencoder
from scalekv.infinity_patch.model.quantiser import quantise_latents, vae_sizes
from scalekv.infinity_patch.schedules import schedule_for
from scripts.builtin.captions import heldout_rows
from scripts.builtin.dataset import DEFAULT_FOLDER, load_rows
from scripts.builtin.peaks import standardised
from scripts.builtin.training import in_float

NEAR = 3  # pixels around the largest value that count as at it
BATCH = 16
LEVELS = 127.5  # of 255, a unit of a picture in [-1, 1]


@dataclass(frozen=True)
class Seen:
    """What was found for N pictures, each (N,) but `corners`.

    psnr: dB; peak: the largest value that enters the last norm, in spreads; at_peak, elsewhere:
    mean colour error around it and over the picture, levels of 255; right: how far right of the
    drawing's middle it lies, as a share of half its width; corners: (N, 4), levels.
    """

    psnr: Tensor
    peak: Tensor
    at_peak: Tensor
    elsewhere: Tensor
    right: Tensor
    corners: Tensor


def look(decoded: Tensor, wanted: Tensor, peaks: Tensor, places: Tensor) -> Seen:
    """Compare pictures (N, 3, H, W) in [-1, 1]; peaks (N,), places (N, 2) row and column."""
    error = (decoded - wanted) * LEVELS
    colour = (error - error.mean(1, keepdim=True)).abs().mean(1)  # what is not lightness
    height, width = colour.shape[1:]
    rows, columns = torch.arange(height)[None, :, None], torch.arange(width)[None, None]
    row, column = (places[:, i, None, None] for i in (0, 1))
    near = ((rows - row).abs() <= NEAR) & ((columns - column).abs() <= NEAR)
    drawn = (wanted < 1).any(1)
    covered = drawn.any(1).float() * torch.arange(width)
    middle = covered.sum(1) / drawn.any(1).sum(1)
    return Seen(
        psnr=-10 * (error / 255).square().mean((1, 2, 3)).log10(),
        peak=peaks,
        at_peak=(colour * near).sum((1, 2)) / near.sum((1, 2)),
        elsewhere=colour.mean((1, 2)),
        right=(places[:, 1] - middle) / (drawn.any(1).sum(1) / 2),
        corners=error.abs().mean(1)[:, [0, 0, -1, -1], [0, -1, 0, -1]],
    )


@contextmanager
def largest(norm: nn.Module) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """(values (N,), places (N, 2)) of the largest value of what `norm` is given, a call each."""
    found: list[tuple[Tensor, Tensor]] = []

    def before(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0]
        values = standardised(x, norm.num_groups).abs()  # type: ignore[arg-type]
        at_most, where = values.view(*x.shape[:2], -1).amax(1).max(1)
        found.append((at_most, torch.stack([where // x.shape[3], where % x.shape[3]], 1)))

    hook = norm.register_forward_pre_hook(before)
    try:
        yield found
    finally:
        hook.remove()


@contextmanager
def mirrored_edges(decoder: nn.Module) -> Iterator[None]:
    """Inside the block convolutions see their map's edge continued, not zeros."""
    convolutions = [m for m in decoder.modules() if isinstance(m, nn.Conv2d) and any(m.padding)]
    for conv in convolutions:
        conv.padding_mode = "replicate"
        conv._reversed_padding_repeated_twice = [1, 1, 1, 1]
    try:
        yield
    finally:
        for conv in convolutions:
            conv.padding_mode = "zeros"


@contextmanager
def tamed(decoder: nn.Module, limit: float = 10.0) -> Iterator[None]:
    """Inside the block no value enters a norm further than `limit` spreads from its map's mean."""

    def before(norm: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        x = inputs[0]
        spread, mean = torch.std_mean(x, (2, 3), keepdim=True)
        return (x.clamp(mean - limit * spread, mean + limit * spread),)

    hooks = [
        m.register_forward_pre_hook(before)
        for m in decoder.modules()
        if isinstance(m, nn.GroupNorm)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


Way = Callable[[Autoencoder, Tensor], Tensor]


def ways(sizes: Sequence[tuple[int, int]]) -> dict[str, Way]:
    """From pictures to what the decoder makes of them, by what differs from the usual."""

    def usual(vae: Autoencoder, x: Tensor) -> Tensor:
        return vae.decode(quantise_latents(vae.encode(x), sizes).total)

    def whole(vae: Autoencoder, x: Tensor) -> Tensor:
        with torch.enable_grad():  # where gradients are wanted, no map is cut into strips
            return usual(vae, x).detach()

    def unquantised(vae: Autoencoder, x: Tensor) -> Tensor:
        return vae.decode(vae.encode(x))

    def flipped(vae: Autoencoder, x: Tensor) -> Tensor:
        return usual(vae, x.flip(3))

    def replicated(vae: Autoencoder, x: Tensor) -> Tensor:
        with mirrored_edges(vae.decoder):
            return usual(vae, x)

    def clamped(vae: Autoencoder, x: Tensor) -> Tensor:
        with tamed(vae.decoder):
            return usual(vae, x)

    return {
        "as it is": usual,
        "no strips": whole,
        "no quantiser": unquantised,
        "drawings flipped": flipped,
        "edges continued, not zeros": replicated,
        "peaks cut off at 10": clamped,
    }


@torch.no_grad()
def measure(vae: Autoencoder, pictures: Tensor, way: Way, flip: bool = False) -> Seen:
    """What one way does to pictures (N, 3, H, W) in [-1, 1]."""
    seen = []
    for x in pictures.split(BATCH):
        with largest(vae.decoder.norm_out.norm) as found:
            decoded = way(vae, x)
        seen.append(look(decoded, x.flip(3) if flip else x, *found[-1]))
    return Seen(**{f: torch.cat([getattr(s, f) for s in seen]) for f in Seen.__annotations__})


def table(results: dict[str, Seen]) -> str:
    """Markdown, a line a way."""
    head = [
        "", "PSNR (dB)", "largest value (spreads)", "colour error at it", "over the picture",
        "it lies right of the middle", "corners: top left", "top right", "bottom left",
        "bottom right",
    ]  # fmt: skip
    lines = [head, ["---"] * len(head)]
    for name, seen in results.items():
        corners = [f"{value:.1f}" for value in seen.corners.mean(0).tolist()]
        lines.append(
            [
                name,
                f"{seen.psnr.mean():.2f}",
                f"{seen.peak.median():.1f}",
                f"{seen.at_peak.mean():.1f}",
                f"{seen.elsewhere.mean():.1f}",
                f"{(seen.right > 0).float().mean():.0%}",
                *corners,
            ]
        )
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    """Measure every way and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DEFAULT_FOLDER)
    parser.add_argument("--vae", type=Path, default=BUILT_IN / "emoji" / "vae.safetensors")
    parser.add_argument("--limit", type=int, help="only the first so many held-out drawings")
    args = parser.parse_args()
    preset = model_named("emoji")
    vae = Autoencoder(preset.tokenizer).eval()
    vae.load_state_dict(in_float(args.vae))
    rows = load_rows(args.data)
    places = {row["id"]: i for i, row in enumerate(rows)}
    images = np.load(args.data / "images.npy", mmap_mode="r")
    chosen = heldout_rows(rows)[: args.limit]
    pictures = as_input(np.stack([images[places[row["id"]]] for row in chosen]))
    side = pictures.shape[-1] // preset.tokenizer.stride
    schedule = next(
        s
        for s in (schedule_for("1:1", pixels) for pixels in ("0.06M", "0.25M"))
        if s.scales[-1] == (side, side)
    )
    results = {}
    for name, way in ways(vae_sizes(schedule.scales, preset.tokenizer.patchify)).items():
        results[name] = measure(vae, pictures, way, flip=name == "drawings flipped")
        print(name, file=sys.stderr)
    print(table(results))


if __name__ == "__main__":
    main()
