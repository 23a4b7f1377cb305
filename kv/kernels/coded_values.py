"""Packed codes to coefficients, and these through their basis: what a coded cache reads first.
Knows where codes lie, steps and bases; nothing of why."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from scalekv.kv.kernels.operator import Kernel, Operator, pieces, power_of_two

if TYPE_CHECKING:
    import triton.language as tl

_TOKENS = 16  # coefficients of one program


def _plain(
    codes: Tensor,
    starts: Tensor,
    steps: Tensor,
    gains: Tensor,
    columns: Tensor,
    sections: Tensor,
    basis: Tensor,
) -> Tensor:
    unit, number, inside = columns.long()
    start = starts[:, :, :, unit]  # (2, H, P, n, D)
    level, begin = start & 7, (start >> 3) + inside[:, None]
    pictures = gains.shape[-1]
    index = begin.unsqueeze(-1).long() * pictures + torch.arange(pictures, device=codes.device)
    first, size = sections[level.long(), :2].unsqueeze(-2).unbind(-1)
    bits = (1 << level >> 1).unsqueeze(-1)
    byte = torch.where(bits > 0, first + index % size, 0)
    code = torch.cat((codes, codes.new_zeros(1)))[byte].int()  # there may be none
    code >>= torch.where(bits > 0, index // size * bits, 0).int()
    code &= (1 << bits) - 1
    value = (code - (1 << bits >> 1) + 0.5) * steps[:, :, :, unit].unsqueeze(-1)
    value *= gains.float().permute(1, 2, 3, 0, 4)[:, :, :, number].unsqueeze(4)
    return torch.einsum("khpncb,khcd->khpnbd", value, basis.float())


@Kernel
def _kernel(
    codes: tl.tensor,
    starts: tl.tensor,
    steps: tl.tensor,
    gains: tl.tensor,
    columns: tl.tensor,
    sections: tl.tensor,
    basis: tl.tensor,
    out: tl.tensor,
    length: tl.tensor,
    count_units: tl.tensor,
    pictures: tl.tensor,
    count_rows: tl.tensor,
    PARTS: tl.constexpr,
    DIM: tl.constexpr,
    CHANNELS: tl.constexpr,
    TOKENS: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)  # keys before values, heads
    place = tl.program_id(1) * TOKENS + tl.arange(0, TOKENS)
    token, picture = place // pictures, place % pictures
    real = token < length
    channel = tl.arange(0, CHANNELS)
    wide = channel < DIM
    unit = tl.load(columns + token, mask=real, other=0)
    number = tl.load(columns + length + token, mask=real, other=0)
    inside = tl.load(columns + 2 * length + token, mask=real, other=0)
    known = wide[:, None] & real[None, :]
    turned = tl.load(
        basis + row * DIM * DIM + channel[:, None] * DIM + channel[None, :],
        mask=wide[:, None] & wide[None, :],
        other=0.0,
    ).to(tl.float32)
    for part in tl.static_range(PARTS):
        line = ((row * PARTS + part) * count_units + unit)[None, :] * DIM + channel[:, None]
        start = tl.load(starts + line, mask=known, other=0)
        level = start & 7
        bits = (1 << level) >> 1
        first = tl.load(sections + 4 * level)
        size = tl.load(sections + 4 * level + 1)
        index = ((start >> 3) + inside[None, :]).to(tl.int64) * pictures + picture[None, :]
        byte = tl.load(codes + first + index % size, mask=known & (level > 0), other=0)
        code = (byte.to(tl.int32) >> ((index // size) * bits).to(tl.int32)) & ((1 << bits) - 1)
        step = tl.load(steps + line, mask=known, other=0.0)
        gain = tl.load(
            gains + ((number * count_rows + row) * PARTS + part) * pictures + picture,
            mask=real,
            other=0.0,
        ).to(tl.float32)
        value = (code.to(tl.float32) - ((1 << bits) >> 1).to(tl.float32) + 0.5) * step
        value = value * gain[None, :]
        found = tl.dot(tl.trans(value), turned, input_precision="ieee")
        target = out + ((row * PARTS + part) * length * pictures + place)[:, None] * DIM
        tl.store(target + channel[None, :], found, mask=real[:, None] & wide[None, :])


def _fused(
    codes: Tensor,
    starts: Tensor,
    steps: Tensor,
    gains: Tensor,
    columns: Tensor,
    sections: Tensor,
    basis: Tensor,
) -> Tensor:
    out = _shapes(codes, starts, steps, gains, columns, sections, basis)
    kinds, heads, parts, length, pictures, dim = out.shape
    _kernel.launch(
        (kinds * heads, pieces(length * pictures, _TOKENS)),
        codes,
        starts,
        steps,
        gains,
        columns,
        sections,
        basis,
        out,
        length,
        starts.shape[3],
        pictures,
        kinds * heads,
        PARTS=parts,
        DIM=dim,
        CHANNELS=max(power_of_two(dim), 16),
        TOKENS=_TOKENS,
    )
    return out


def _shapes(
    codes: Tensor,
    starts: Tensor,
    steps: Tensor,
    gains: Tensor,
    columns: Tensor,
    sections: Tensor,
    basis: Tensor,
) -> Tensor:
    kinds, heads, parts, _, dim = starts.shape
    shape = (kinds, heads, parts, columns.shape[1], gains.shape[-1], dim)
    return steps.new_empty(shape)


_coded_values = Operator(
    "coded_values(Tensor codes, Tensor starts, Tensor steps, Tensor gains, Tensor columns, "
    "Tensor sections, Tensor basis) -> Tensor",
    plain=_plain,
    fused=_fused,
    shapes=_shapes,
    launches=1,
)


def coded_values(
    codes: Tensor,
    starts: Tensor,
    steps: Tensor,
    gains: Tensor,
    columns: Tensor,
    sections: Tensor,
    basis: Tensor,
) -> Tensor:
    """Coefficients of some maps in the model's own channels, (2, H, P, n, B, D) float32.

    Args:
        codes: (bytes,) uint8, levels one after the other; of a level's m bytes byte i has the codes
            i, i + m, …, lowest bits first.
        starts, steps: (2, H, P, U, D), see `scalekv.kv.kernels.coded_tables`.
        gains: (maps, 2, H, P, B) float16.
        columns: (3, n) int32: of each coefficient the unit, the map, the place in the unit.
        sections: (levels + 1, 4) int64: the first two of each level are where its bytes begin, and
            how many there are, at least 1.
        basis: (2, H, D, D): rows are the coefficients' channels.
    """
    found: Tensor = _coded_values(codes, starts, steps, gains, columns, sections, basis)
    return found
