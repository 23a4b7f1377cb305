"""Which quantiser each channel of each unit has, and where its codes lie: what the other kernels of
a coded cache find codes by. Knows logarithms, thresholds and counts; nothing of values."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from scalekv.kv.kernels.operator import Kernel, Operator, power_of_two

if TYPE_CHECKING:
    import triton.language as tl


def _plain(
    units: Tensor, kinds: Tensor, channels: Tensor, weights: Tensor, levels: Tensor, octave: int
) -> list[Tensor]:
    group, size = kinds.long()
    here = channels[:, :, :, group].int()
    variance, importance, firsts = units[0], units[1], units[2:]
    q = importance.unsqueeze(-1) + here + weights.int().unsqueeze(3)
    level = torch.zeros_like(q)
    starts = torch.zeros_like(q)
    for least in levels[0, 1:]:
        level += (q >= least).int()
    for number, first in enumerate(firsts, 1):
        has = (level == number).int()
        before = has.cumsum(-1) - has
        starts += has * (first.unsqueeze(-1) + before * size.unsqueeze(-1)).int()
    steps = levels[1][level.long()] * torch.exp2((variance.unsqueeze(-1) + here) / (2 * octave))
    return [starts * 8 + level, steps]


@Kernel
def _kernel(
    units: tl.tensor,
    kinds: tl.tensor,
    channels: tl.tensor,
    weights: tl.tensor,
    levels: tl.tensor,
    starts: tl.tensor,
    steps: tl.tensor,
    length: tl.tensor,
    count_units: tl.tensor,
    count_groups: tl.tensor,
    OCTAVE: tl.constexpr,
    LEVELS: tl.constexpr,
    DIM: tl.constexpr,
    CHANNELS: tl.constexpr,
) -> None:
    line = tl.program_id(0).to(tl.int64)  # keys before values, heads, parts
    unit = tl.program_id(1)
    channel = tl.arange(0, CHANNELS)
    wide = channel < DIM
    place = line * count_units + unit
    variance, importance = tl.load(units + place), tl.load(units + length + place)
    group, size = tl.load(kinds + unit), tl.load(kinds + count_units + unit)
    source = channels + (line * count_groups + group) * DIM + channel
    here = tl.load(source, mask=wide, other=0).to(tl.int32)
    weight = tl.load(weights + line * DIM + channel, mask=wide, other=0).to(tl.int32)
    q = (importance + here + weight).to(tl.float32)
    level = tl.zeros((CHANNELS,), tl.int32)
    for number in tl.static_range(1, LEVELS + 1):
        level += (wide & (q >= tl.load(levels + number))).to(tl.int32)
    start = tl.zeros((CHANNELS,), tl.int32)
    for number in tl.static_range(1, LEVELS + 1):
        has = (level == number).to(tl.int32)
        before = tl.cumsum(has, 0) - has
        first = tl.load(units + (number + 1) * length.to(tl.int64) + place)
        start += has * (first + before * size)
    delta = tl.load(levels + LEVELS + 1 + level)
    step = delta * tl.exp2((variance + here).to(tl.float32) / (2 * OCTAVE))
    target = place * DIM + channel
    tl.store(starts + target, start * 8 + level, mask=wide)
    tl.store(steps + target, step, mask=wide)


def _fused(
    units: Tensor, kinds: Tensor, channels: Tensor, weights: Tensor, levels: Tensor, octave: int
) -> list[Tensor]:
    starts, steps = _shapes(units, kinds, channels, weights, levels, octave)
    two, heads, parts, count, dim = starts.shape
    lines = two * heads * parts
    _kernel.launch(
        (lines, count),
        units,
        kinds,
        channels,
        weights,
        levels,
        starts,
        steps,
        lines * count,
        count,
        channels.shape[3],
        OCTAVE=octave,
        LEVELS=levels.shape[1] - 1,
        DIM=dim,
        CHANNELS=max(power_of_two(dim), 16),
    )
    return [starts, steps]


def _shapes(
    units: Tensor, kinds: Tensor, channels: Tensor, weights: Tensor, levels: Tensor, octave: int
) -> list[Tensor]:
    shape = (*units.shape[1:], weights.shape[-1])
    return [units.new_empty(shape), levels.new_empty(shape)]


_coded_tables = Operator(
    "coded_tables(Tensor units, Tensor kinds, Tensor channels, Tensor weights, Tensor levels, "
    "int octave) -> Tensor[]",
    plain=_plain,
    fused=_fused,
    shapes=_shapes,
    launches=1,
)


def coded_tables(
    units: Tensor, kinds: Tensor, channels: Tensor, weights: Tensor, levels: Tensor, octave: int
) -> tuple[Tensor, Tensor]:
    """Starts (2, H, P, U, D) int32 and steps (2, H, P, U, D) float32, as the other kernels have
    them.

    A start is 8 times the place of a channel's first code of the unit among those of its level, of
    one picture, plus the level: 0 for no bits, else of 1 << (level - 1) bits. Codes of a level lie
    unit after unit, in the order of (2, H, P, U), then channel after channel, one for each of the
    unit's coefficients. A step is a quantiser's; 0 for no bits.

    Args:
        units: (2 + levels, 2, H, P, U) int32: the logarithm of a unit's variance, that of its
            importance less the threshold, and where its codes of each level above 0 begin.
        kinds: (2, U) int32: of which group of channels a unit is, and its coefficients.
        channels: (2, H, P, G, D) int16: what is added to both logarithms for a channel.
        weights: (2, H, P, D) int16: what is added to importances besides.
        levels: (2, 1 + levels) float32: the least importance above the threshold for a level, of
            which there are more for higher levels, and steps in standard deviations.
        octave: what a logarithm of a factor of 2 is.
    """
    starts, steps = _coded_tables(units, kinds, channels, weights, levels, octave)
    return starts, steps
