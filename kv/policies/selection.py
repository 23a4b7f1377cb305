"""Which of the newest map's tokens observe for a policy, and tokens wanted for their place alone.
Knows maps; nothing here waits for the device. What policies do to scores is in
`scalekv.kv.kernels`."""

from __future__ import annotations

from fractions import Fraction
from functools import cache, lru_cache

import torch
from torch import Tensor

from scalekv.kv.policies.policy import Step
from scalekv.kv.schedule import Schedule
from scalekv.kv.to_device import to_device


@cache
def window_grid(height: int, width: int, most: int) -> tuple[int, int]:
    """Rows and columns of the largest grid of patches with at most `most` (at least 1) of them.

    A grid has no more rows or columns than the map. Among grids of equally many patches the one
    with patches closest to square wins, then the one with fewer rows.
    """

    def rank(rows: int, columns: int) -> tuple[int, Fraction, int]:
        aspect = Fraction(height * columns, width * rows)
        return -rows * columns, max(aspect, 1 / aspect), rows

    most = max(most, 1)
    grids = ((rows, min(width, most // rows)) for rows in range(1, min(height, most) + 1))
    return min(grids, key=lambda grid: rank(*grid))


@lru_cache(maxsize=64)  # layers, and pictures, share a scale's
def window_tokens(height: int, width: int, most: int, device: torch.device) -> Tensor:
    """(W,) int64 ascending: the central token of each patch of `window_grid`, row-major.

    Of the two middle rows or columns of an even patch it is the first, as in ScaleKV's code. Not to
    be written to: the tensor is kept for the next call.
    """
    rows, columns = window_grid(height, width, most)
    # An ordinary tensor even under inference mode: later calls outside it get the same one.
    with torch.inference_mode(False):
        row, column = _centres(height, rows, device), _centres(width, columns, device)
        return (row[:, None] * width + column).flatten()


def _centres(length: int, parts: int, device: torch.device) -> Tensor:
    # Part i spans [i*length/parts, (i+1)*length/parts). Made on the device, not copied there,
    # so that the host does not wait.
    edges = torch.arange(parts + 1, device=device) * length // parts
    return (edges[:-1] + edges[1:] - 1) // 2


def first_and_newest(step: Step, first: int) -> Tensor:
    """(B, H, T) float32 of each cached token: how much it is wanted by a method that keeps the
    first maps and the newest, whatever they hold.

    The first `first` maps are wanted most, earlier ones more; then maps by age, the newest first.
    Within a map tokens are wanted in an order of which any beginning is spread evenly over it.
    """
    wanted = _wanted(step.schedule, step.scale + 1, first, step.k.device)
    batch, heads, tokens = step.k.shape[:3]
    if step.positions is None:
        return wanted.expand(batch, heads, tokens)
    return wanted[step.positions]


@lru_cache(maxsize=64)  # layers, and pictures, share a scale's
def _wanted(schedule: Schedule, scales: int, first: int, device: torch.device) -> Tensor:
    """(T,) float32 of every token of the first `scales` maps; see `first_and_newest`."""
    with torch.inference_mode(False):
        parts = []
        for scale, (height, width) in enumerate(schedule.scales[:scales]):
            late = 1.0 - dithered(height, width) / (height * width)  # above 0, at most 1
            parts.append(late + (2 * scales - scale if scale < first else scale))
        return to_device(torch.cat(parts), device)


def dithered(height: int, width: int) -> Tensor:
    """(height * width,) float32 whole numbers: the place of each token of a map, row-major, in an
    order of which any beginning is spread evenly; that of an ordered dither (Bayer's matrix)."""
    rows = torch.arange(height, device="cpu")[:, None].expand(height, width)
    columns = torch.arange(width, device="cpu")[None].expand(height, width)
    places = torch.zeros((height, width), dtype=torch.int64, device="cpu")
    bits = max(height - 1, width - 1, 1).bit_length()
    for bit in range(bits):  # the lowest bits of a place decide first
        low = bits - 1 - bit
        places |= (((rows ^ columns) >> bit) & 1) << (2 * low + 1)
        places |= ((rows >> bit) & 1) << (2 * low)
    return places.flatten().argsort().argsort().float()
