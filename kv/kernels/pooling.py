"""Scores averaged with their neighbours on maps, of which only some tokens are still there. Knows
maps and positions; nothing of what is scored."""

from __future__ import annotations

from functools import lru_cache
from itertools import accumulate
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from scalekv.kv.kernels.operator import Kernel, Operator, pieces
from scalekv.kv.schedule import Schedule

if TYPE_CHECKING:
    import triton.language as tl

_TOKENS = 128  # of a program


def _plain(scores: Tensor, positions: Tensor | None, sides: list[int], kernel: int) -> Tensor:
    rows = scores.flatten(0, 1)
    maps = list(zip(sides[::2], sides[1::2], strict=True))
    tokens = sum(height * width for height, width in maps)
    # scores and, below them, what is held: ones and zeros, which are pooled alike
    if positions is None:
        canvas = torch.cat((rows, rows.new_ones(1, tokens)))
    else:
        places = positions.flatten(0, 1).long()
        canvas = rows.new_zeros(2 * len(rows), tokens)
        canvas[: len(rows)].scatter_(1, places, rows)
        canvas[len(rows) :].scatter_(1, places, 1.0)
    sums = torch.empty_like(canvas)
    start = 0
    for height, width in maps:
        span = slice(start, start + height * width)
        start = span.stop
        one = canvas[:, span].unflatten(1, (height, width))
        sums[:, span] = F.avg_pool2d(
            one, kernel, stride=1, padding=kernel // 2, divisor_override=1
        ).flatten(1)
    pooled = sums[: len(rows)].div_(sums[len(rows) :].clamp_min_(1.0))
    return (pooled if positions is None else pooled.gather(1, places)).view_as(scores)


@Kernel
def _kernel(
    scores: tl.tensor,
    positions: tl.tensor,
    maps: tl.tensor,
    out: tl.tensor,
    length: tl.tensor,
    count_maps: tl.tensor,
    count_halvings: tl.tensor,
    DROPPED: tl.constexpr,
    KERNEL: tl.constexpr,
    TOKENS: tl.constexpr,
) -> None:
    """Neighbours are looked up: the held positions ascend, so that those of one row of a
    neighbourhood follow each other from the first that is not before it."""
    row = tl.program_id(0).to(tl.int64)
    slots = tl.program_id(1) * TOKENS + tl.arange(0, TOKENS)
    inside = slots < length
    scores += row * length
    positions += row * length
    place = slots
    if DROPPED:
        place = tl.load(positions + slots, mask=inside, other=0)
    start = tl.zeros((TOKENS,), tl.int32)
    height = tl.full((TOKENS,), 1, tl.int32)
    width = tl.full((TOKENS,), 1, tl.int32)
    for number in range(0, count_maps):
        first = tl.load(maps + 3 * number)
        of_this = place >= first
        start = tl.where(of_this, first, start)
        height = tl.where(of_this, tl.load(maps + 3 * number + 1), height)
        width = tl.where(of_this, tl.load(maps + 3 * number + 2), width)
    line = (place - start) // width
    column = (place - start) % width
    left = tl.maximum(column - KERNEL // 2, 0)
    right = tl.minimum(column + KERNEL // 2, width - 1)
    total = tl.zeros((TOKENS,), tl.float32)
    held = tl.zeros((TOKENS,), tl.float32)
    for step in range(0, KERNEL):
        other = line + step - KERNEL // 2
        on_map = inside & (other >= 0) & (other < height)
        begin = start + other * width + left
        end = start + other * width + right
        low = begin
        if DROPPED:
            low = tl.zeros((TOKENS,), tl.int32)
            high = tl.zeros((TOKENS,), tl.int32) + length
            for _ in range(0, count_halvings):
                middle = (low + high) // 2
                open_ = on_map & (low < high)
                before = tl.load(positions + middle, mask=open_, other=0) < begin
                low = tl.where(open_ & before, middle + 1, low)
                high = tl.where(open_ & ~before, middle, high)
        for neighbour in range(0, KERNEL):
            slot = low + neighbour
            counts = on_map & (slot < length)
            position = slot
            if DROPPED:
                position = tl.load(positions + slot, mask=counts, other=0)
            counts = counts & (position <= end)
            total += tl.load(scores + slot, mask=counts, other=0.0)
            held += counts.to(tl.float32)
    tl.store(out + row * length + slots, total / tl.maximum(held, 1.0), mask=inside)


def _fused(scores: Tensor, positions: Tensor | None, sides: list[int], kernel: int) -> Tensor:
    batch, heads, length = scores.shape
    scores = scores.contiguous()
    out = torch.empty_like(scores)
    _kernel.launch(
        (batch * heads, pieces(length, _TOKENS)),
        scores,
        scores if positions is None else positions.contiguous(),
        _maps(tuple(sides), scores.device),
        out,
        length,
        len(sides) // 2,
        length.bit_length(),
        DROPPED=positions is not None,
        KERNEL=kernel,
        TOKENS=_TOKENS,
    )
    return out


@lru_cache(maxsize=256)
def _maps(sides: tuple[int, ...], device: torch.device) -> Tensor:
    """(maps, 3) int32: where each map begins, its height and width; made on the device."""
    counts = [height * width for height, width in zip(sides[::2], sides[1::2], strict=True)]
    starts = [0, *accumulate(counts)]
    with torch.inference_mode(False):  # later calls outside it get the same one
        table = torch.empty((len(counts), 3), dtype=torch.int32, device=device)
        for number, (row, start) in enumerate(zip(table, starts, strict=False)):
            for cell, value in zip(row, (start, *sides[2 * number : 2 * number + 2]), strict=True):
                cell.fill_(value)  # a number goes to the device with the launch: no host waits
    return table


def _shapes(scores: Tensor, positions: Tensor | None, sides: list[int], kernel: int) -> Tensor:
    return torch.empty_like(scores)


_pooled_on_maps = Operator(
    "pooled_on_maps(Tensor scores, Tensor? positions, int[] sides, int kernel) -> Tensor",
    plain=_plain,
    fused=_fused,
    shapes=_shapes,
    launches=1,
)


def pooled_on_maps(
    scores: Tensor, positions: Tensor | None, schedule: Schedule, scales: int, kernel: int
) -> Tensor:
    """(B, H, T): scores averaged with their neighbours on the 2-D map of each token's own scale.

    Args:
        scores: (B, H, T) float32 of the cached tokens.
        positions: (B, H, T) int32 their places among all tokens, ascending; None: 0 to T - 1.
        scales: the first `scales` scales of the schedule are those that can be cached.
        kernel: odd side of the square neighbourhood; only tokens still cached count in it.
    """
    sides = [side for scale in schedule.scales[:scales] for side in scale]
    pooled: Tensor = _pooled_on_maps(scores, positions, sides, kernel)
    return pooled
