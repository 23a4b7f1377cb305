"""Codes of a coded cache to bytes, and codes that are there already to coarser ones. Knows where
codes lie and steps; nothing of what values stand for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from scalekv.kv.kernels.operator import Kernel, Operator, pieces, power_of_two

if TYPE_CHECKING:
    import triton.language as tl

_BYTES = 512  # of one program
_TOKENS = 16  # coefficients of one program


def _plain_packed(codes: Tensor, sections: Tensor, size: int) -> Tensor:
    out = codes.new_zeros(size)
    for level, (first, _, begin, count) in enumerate(sections.tolist()[1:]):
        bits = 1 << level
        found = codes[begin : begin + count]
        together = -(-count * bits // 8)
        padded = found.new_zeros(together * 8 // bits)
        padded[:count] = found
        rows = padded.view(8 // bits, together)
        shifts = torch.arange(0, 8, bits, device=codes.device).unsqueeze(1)
        out[first : first + together] = (rows << shifts).sum(0).to(torch.uint8)
    return out


def _plain_again(
    packed: Tensor,
    starts: Tensor,
    steps: Tensor,
    sections: Tensor,
    columns: Tensor,
    new_starts: Tensor,
    new_steps: Tensor,
    new_sections: Tensor,
    pictures: int,
    codes: Tensor,
) -> None:
    unit, _, inside = columns.long()
    start, step = starts[:, :, :, unit], steps[:, :, :, unit]
    new, new_step = new_starts[:, :, :, unit], new_steps[:, :, :, unit]
    picture = torch.arange(pictures, device=codes.device)
    index = ((start >> 3) + inside[:, None]).long().unsqueeze(-1) * pictures + picture
    level, new_level = (start & 7).long(), (new & 7).long()
    has = (new_level > 0).unsqueeze(-1).expand_as(index)
    bits, new_bits = 1 << level >> 1, 1 << new_level >> 1
    first, size = sections[level, :2].unsqueeze(-2).unbind(-1)
    byte = packed[torch.where(has, first + index % size, 0)].int()
    code = byte >> torch.where(has, index // size * bits.unsqueeze(-1), 0)
    code = code & ((1 << bits) - 1).unsqueeze(-1)
    value = (code - (1 << bits >> 1).unsqueeze(-1) + 0.5) * step.unsqueeze(-1)
    half = (1 << new_bits >> 1).unsqueeze(-1)
    coarse = torch.where(has, value / new_step.unsqueeze(-1), 0.0) + half
    coarse = torch.minimum(coarse.clamp_min(0), 2 * half - 0.5).to(torch.uint8)
    place = ((new >> 3) + inside[:, None]).long().unsqueeze(-1) * pictures + picture
    place = place + new_sections[new_level, 2].unsqueeze(-1)
    codes[place[has]] = coarse[has]


@Kernel
def _packed(
    codes: tl.tensor,
    sections: tl.tensor,
    out: tl.tensor,
    length: tl.tensor,
    LEVELS: tl.constexpr,
    BYTES: tl.constexpr,
) -> None:
    byte = tl.program_id(0).to(tl.int64) * BYTES + tl.arange(0, BYTES)
    real = byte < length
    level = tl.zeros((BYTES,), tl.int32)
    for number in tl.static_range(1, LEVELS + 1):
        level = tl.where(byte >= tl.load(sections + 4 * number), number, level)
    inside = byte - tl.load(sections + 4 * level)
    size = tl.load(sections + 4 * level + 1)
    first = tl.load(sections + 4 * level + 2)
    count = tl.load(sections + 4 * level + 3)
    bits = (1 << level) >> 1
    packed = tl.zeros((BYTES,), tl.int32)
    for slot in tl.static_range(8):
        index = inside + slot * size
        there = real & (slot * bits < 8) & (index < count)
        code = tl.load(codes + first + index, mask=there, other=0).to(tl.int32)
        packed |= code << tl.where(there, slot * bits, 0)
    tl.store(out + byte, packed.to(tl.uint8), mask=real)


@Kernel
def _again(
    packed: tl.tensor,
    starts: tl.tensor,
    steps: tl.tensor,
    sections: tl.tensor,
    columns: tl.tensor,
    new_starts: tl.tensor,
    new_steps: tl.tensor,
    new_sections: tl.tensor,
    codes: tl.tensor,
    length: tl.tensor,
    count_units: tl.tensor,
    count_new: tl.tensor,
    pictures: tl.tensor,
    DIM: tl.constexpr,
    CHANNELS: tl.constexpr,
    TOKENS: tl.constexpr,
) -> None:
    line = tl.program_id(0).to(tl.int64)  # keys before values, heads, parts
    token = tl.program_id(1) * TOKENS + tl.arange(0, TOKENS)
    picture = tl.program_id(2)
    channel = tl.arange(0, CHANNELS)
    real, wide = token < length, channel < DIM
    unit = tl.load(columns + token, mask=real, other=0)
    inside = tl.load(columns + 2 * length + token, mask=real, other=0)
    table = (line * count_new + unit)[:, None] * DIM + channel[None, :]
    new = tl.load(new_starts + table, mask=real[:, None] & wide[None, :], other=0)
    new_level = new & 7
    has = new_level > 0
    new_step = tl.load(new_steps + table, mask=has, other=1.0)
    table = (line * count_units + unit)[:, None] * DIM + channel[None, :]
    start = tl.load(starts + table, mask=has, other=0)
    step = tl.load(steps + table, mask=has, other=1.0)
    level = start & 7
    bits = (1 << level) >> 1
    index = ((start >> 3) + inside[:, None]).to(tl.int64) * pictures + picture
    size = tl.load(sections + 4 * level + 1)
    byte = tl.load(packed + tl.load(sections + 4 * level) + index % size, mask=has, other=0)
    code = (byte.to(tl.int32) >> (index // size * bits).to(tl.int32)) & ((1 << bits) - 1)
    value = (code.to(tl.float32) - ((1 << bits) >> 1).to(tl.float32) + 0.5) * step
    half = ((1 << ((1 << new_level) >> 1)) >> 1).to(tl.float32)
    coarse = tl.minimum(tl.maximum(value / new_step + half, 0.0), 2 * half - 0.5)
    place = ((new >> 3) + inside[:, None]).to(tl.int64) * pictures + picture
    place += tl.load(new_sections + 4 * new_level + 2)
    tl.store(codes + place, coarse.to(tl.int32).to(tl.uint8), mask=has)


def _fused_packed(codes: Tensor, sections: Tensor, size: int) -> Tensor:
    out = _packed_of(codes, sections, size)
    _packed.launch(
        (pieces(size, _BYTES),),
        codes,
        sections,
        out,
        size,
        LEVELS=len(sections) - 1,
        BYTES=_BYTES,
    )
    return out


def _fused_again(
    packed: Tensor,
    starts: Tensor,
    steps: Tensor,
    sections: Tensor,
    columns: Tensor,
    new_starts: Tensor,
    new_steps: Tensor,
    new_sections: Tensor,
    pictures: int,
    codes: Tensor,
) -> None:
    kinds, heads, parts, count, dim = starts.shape
    length = columns.shape[1]
    _again.launch(
        (kinds * heads * parts, pieces(length, _TOKENS), pictures),
        packed,
        starts,
        steps,
        sections,
        columns,
        new_starts,
        new_steps,
        new_sections,
        codes,
        length,
        count,
        new_starts.shape[3],
        pictures,
        DIM=dim,
        CHANNELS=max(power_of_two(dim), 16),
        TOKENS=_TOKENS,
    )


def _packed_of(codes: Tensor, sections: Tensor, size: int) -> Tensor:
    return codes.new_empty(size)


def _nothing(*_: object) -> None:
    return None


_coded_packed = Operator(
    "coded_packed(Tensor codes, Tensor sections, int size) -> Tensor",
    plain=_plain_packed,
    fused=_fused_packed,
    shapes=_packed_of,
    launches=1,
)
_coded_again = Operator(
    "coded_again(Tensor packed, Tensor starts, Tensor steps, Tensor sections, Tensor columns, "
    "Tensor new_starts, Tensor new_steps, Tensor new_sections, int pictures, Tensor(a!) codes) "
    "-> ()",
    plain=_plain_again,
    fused=_fused_again,
    shapes=_nothing,
    launches=1,
)


def coded_packed(codes: Tensor, sections: Tensor, size: int) -> Tensor:
    """(size,) uint8: codes, each a byte, packed.

    Args:
        codes: (codes,) uint8 of one level after the other.
        sections: (levels + 1, 4) int64: where a level's bytes begin, how many there are, at least
            1, where its codes begin, and how many there are.
    """
    if not size:
        return codes.new_empty(0)
    found: Tensor = _coded_packed(codes, sections, size)
    return found


def coded_again(
    packed: Tensor,
    tables: tuple[Tensor, Tensor],
    sections: Tensor,
    columns: Tensor,
    new_tables: tuple[Tensor, Tensor],
    new_sections: Tensor,
    pictures: int,
    codes: Tensor,
) -> None:
    """Writes the codes of maps that are held, each a byte, under quantisers that are not finer.

    Args:
        packed: (bytes,) uint8, see `scalekv.kv.kernels.coded_values`.
        tables, sections: of what is held.
        columns: (3, n) int32 of its coefficients.
        new_tables, new_sections: of the coarser codes, the units of these maps first.
        codes: (codes of all levels,) uint8 of the coarser ones.
    """
    if packed.numel():
        _coded_again(packed, *tables, sections, columns, *new_tables, new_sections, pictures, codes)
