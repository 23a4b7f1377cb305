"""Coefficients of a map to codes: through their basis, over their gains, quantised. The reverse of
`coded_values`; knows where codes lie, steps and bases, nothing of why."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from scalekv.kv.kernels.operator import Kernel, Operator, pieces, power_of_two

if TYPE_CHECKING:
    import triton.language as tl

_TOKENS = 16  # coefficients of one program
_SUMS = 64  # of energies, added up in one go


def _plain_energies(
    values: Tensor, basis: Tensor, starts: Tensor, steps: Tensor, columns: Tensor, levels: Tensor
) -> Tensor:
    unit = columns[0].long()
    values.copy_(torch.einsum("khpnbd,khcd->khpnbc", values, basis.float()))
    level = starts[:, :, :, unit].long() & 7
    scale = torch.where(level > 0, levels[1][level] / steps[:, :, :, unit], 0.0)
    squares = (values * scale.unsqueeze(4)).square().sum(-1)  # (2, H, P, n, B)
    tiles = pieces(len(unit), _TOKENS)
    padded = squares.new_zeros((*squares.shape[:3], tiles * _TOKENS, squares.shape[4]))
    padded[:, :, :, : len(unit)] = squares
    by_tile = torch.unflatten(padded, 3, (tiles, _TOKENS))
    return by_tile.sum(4).transpose(3, 4).contiguous()


def _plain_codes(
    values: Tensor,
    energies: Tensor,
    counts: Tensor,
    starts: Tensor,
    steps: Tensor,
    columns: Tensor,
    sections: Tensor,
    least: float,
    most: float,
    codes: Tensor,
) -> Tensor:
    gains = (energies.sum(-1) / counts.unsqueeze(-1)).sqrt().clamp(least, most).half()
    unit, _, inside = columns.long()
    start, step = starts[:, :, :, unit], steps[:, :, :, unit]
    level = (start & 7).long()
    half = ((1 << (1 << level >> 1)) >> 1).unsqueeze(4)
    code = values / gains.float()[:, :, :, None, :, None]
    code = torch.where(half > 0, code / step.unsqueeze(4), 0.0) + half
    code = torch.minimum(code.clamp_min(0), 2 * half - 0.5).to(torch.uint8)
    pictures = values.shape[4]
    index = ((start >> 3) + inside[:, None]).long().unsqueeze(4) * pictures
    index = index + sections[level, 2].unsqueeze(4)
    index = index + torch.arange(pictures, device=codes.device)[:, None]
    has = (half > 0).expand_as(code)
    codes[index[has]] = code[has]
    return gains


@Kernel
def _energies(
    values: tl.tensor,
    basis: tl.tensor,
    starts: tl.tensor,
    steps: tl.tensor,
    columns: tl.tensor,
    deltas: tl.tensor,
    energies: tl.tensor,
    length: tl.tensor,
    count_units: tl.tensor,
    count_tiles: tl.tensor,
    pictures: tl.tensor,
    PARTS: tl.constexpr,
    DIM: tl.constexpr,
    CHANNELS: tl.constexpr,
    TOKENS: tl.constexpr,
) -> None:
    line = tl.program_id(0).to(tl.int64)  # keys before values, heads, parts
    tile = tl.program_id(1)
    picture = tl.program_id(2)
    token = tile * TOKENS + tl.arange(0, TOKENS)
    channel = tl.arange(0, CHANNELS)
    real, wide = token < length, channel < DIM
    known = real[:, None] & wide[None, :]
    unit = tl.load(columns + token, mask=real, other=0)
    table = (line * count_units + unit)[:, None] * DIM + channel[None, :]
    level = tl.load(starts + table, mask=known, other=0) & 7
    energy = tl.sum(tl.zeros((TOKENS,), tl.float32), 0)
    if tl.max(tl.max(level, 1), 0) > 0:
        place = values + ((line * length + token) * pictures + picture)[:, None] * DIM
        value = tl.load(place + channel[None, :], mask=known, other=0.0)
        turned = tl.load(
            basis + line // PARTS * DIM * DIM + channel[None, :] * DIM + channel[:, None],
            mask=wide[:, None] & wide[None, :],
            other=0.0,
        ).to(tl.float32)
        found = tl.dot(value, turned, input_precision="ieee")
        tl.store(place + channel[None, :], found, mask=known)
        step = tl.load(steps + table, mask=known & (level > 0), other=1.0)
        found = tl.where(level > 0, found * (tl.load(deltas + level) / step), 0.0)
        energy = tl.sum(tl.sum(found * found, 1), 0)
    tl.store(energies + (line * pictures + picture) * count_tiles + tile, energy)


@Kernel
def _codes(
    values: tl.tensor,
    energies: tl.tensor,
    counts: tl.tensor,
    starts: tl.tensor,
    steps: tl.tensor,
    columns: tl.tensor,
    sections: tl.tensor,
    gains: tl.tensor,
    codes: tl.tensor,
    least: tl.tensor,
    most: tl.tensor,
    length: tl.tensor,
    length_columns: tl.tensor,
    count_units: tl.tensor,
    count_tiles: tl.tensor,
    pictures: tl.tensor,
    DIM: tl.constexpr,
    CHANNELS: tl.constexpr,
    TOKENS: tl.constexpr,
    SUMS: tl.constexpr,
) -> None:
    line = tl.program_id(0).to(tl.int64)  # keys before values, heads, parts
    tile = tl.program_id(1)
    picture = tl.program_id(2)
    sums = tl.zeros((SUMS,), tl.float32)
    for first in range(0, count_tiles, SUMS):
        number = first + tl.arange(0, SUMS)
        source = energies + (line * pictures + picture) * count_tiles + number
        sums += tl.load(source, mask=number < count_tiles, other=0.0)
    gain = tl.sqrt(tl.sum(sums, 0) / tl.load(counts + line))
    held = tl.minimum(tl.maximum(gain, least), most).to(tl.float16)
    if tile == 0:
        tl.store(gains + line * pictures + picture, held)
    token = tile * TOKENS + tl.arange(0, TOKENS)
    channel = tl.arange(0, CHANNELS)
    real, wide = token < length, channel < DIM
    unit = tl.load(columns + token, mask=real, other=0)
    inside = tl.load(columns + 2 * length_columns + token, mask=real, other=0)
    table = (line * count_units + unit)[:, None] * DIM + channel[None, :]
    start = tl.load(starts + table, mask=real[:, None] & wide[None, :], other=0)
    level = start & 7
    has = level > 0
    if tl.max(tl.max(level, 1), 0) > 0:
        place = values + ((line * length + token) * pictures + picture)[:, None] * DIM
        value = tl.load(place + channel[None, :], mask=has, other=0.0) / held.to(tl.float32)
        half = ((1 << ((1 << level) >> 1)) >> 1).to(tl.float32)
        code = value / tl.load(steps + table, mask=has, other=1.0) + half
        code = tl.minimum(tl.maximum(code, 0.0), 2 * half - 0.5)
        index = ((start >> 3) + inside[:, None]).to(tl.int64) * pictures + picture
        index += tl.load(sections + 4 * level + 2)
        tl.store(codes + index, code.to(tl.int32).to(tl.uint8), mask=has)


def _fused_energies(
    values: Tensor, basis: Tensor, starts: Tensor, steps: Tensor, columns: Tensor, levels: Tensor
) -> Tensor:
    energies = _energies_of(values, basis, starts, steps, columns, levels)
    kinds, heads, parts, length, pictures, dim = values.shape
    tiles = energies.shape[-1]
    _energies.launch(
        (kinds * heads * parts, tiles, pictures),
        values,
        basis,
        starts,
        steps,
        columns,
        levels[1],
        energies,
        length,
        starts.shape[3],
        tiles,
        pictures,
        PARTS=parts,
        DIM=dim,
        CHANNELS=max(power_of_two(dim), 16),
        TOKENS=_TOKENS,
    )
    return energies


def _fused_codes(
    values: Tensor,
    energies: Tensor,
    counts: Tensor,
    starts: Tensor,
    steps: Tensor,
    columns: Tensor,
    sections: Tensor,
    least: float,
    most: float,
    codes: Tensor,
) -> Tensor:
    gains = _gains_of(
        values, energies, counts, starts, steps, columns, sections, least, most, codes
    )
    kinds, heads, parts, length, pictures, dim = values.shape
    tiles = energies.shape[-1]
    _codes.launch(
        (kinds * heads * parts, tiles, pictures),
        values,
        energies,
        counts,
        starts,
        steps,
        columns,
        sections,
        gains,
        codes,
        least,
        most,
        length,
        columns.stride(0),
        starts.shape[3],
        tiles,
        pictures,
        DIM=dim,
        CHANNELS=max(power_of_two(dim), 16),
        TOKENS=_TOKENS,
        SUMS=_SUMS,
    )
    return gains


def _energies_of(values: Tensor, *_: object) -> Tensor:
    kinds, heads, parts, length, pictures, _dim = values.shape
    return values.new_empty((kinds, heads, parts, pictures, pieces(length, _TOKENS)))


def _gains_of(values: Tensor, energies: Tensor, *_: object) -> Tensor:
    return energies.new_empty(energies.shape[:-1], dtype=torch.float16)


_coded_energies = Operator(
    "coded_energies(Tensor(a!) values, Tensor basis, Tensor starts, Tensor steps, Tensor columns, "
    "Tensor levels) -> Tensor",
    plain=_plain_energies,
    fused=_fused_energies,
    shapes=_energies_of,
    launches=1,
)
_coded_codes = Operator(
    "coded_codes(Tensor values, Tensor energies, Tensor counts, Tensor starts, Tensor steps, "
    "Tensor columns, Tensor sections, float least, float most, Tensor(a!) codes) -> Tensor",
    plain=_plain_codes,
    fused=_fused_codes,
    shapes=_gains_of,
    launches=1,
)


def coded_codes(
    values: Tensor,
    basis: Tensor,
    counts: Tensor,
    tables: tuple[Tensor, Tensor],
    columns: Tensor,
    levels: Tensor,
    sections: Tensor,
    gains: tuple[float, float],
    codes: Tensor,
) -> Tensor:
    """Writes the codes of one map, each a byte, and returns its gains (2, H, P, B) float16: the
    root of the mean square, in standard deviations, of its coefficients with bits.

    Args:
        values: (2, H, P, n, B, D) float32 coefficients of `scalekv.kv.kernels.coded_waves`; they
            are overwritten.
        basis: (2, H, D, D): rows are the coefficients' channels.
        counts: (2, H, P) float32: of the map's coefficients with bits, at least 1.
        tables, levels: see `scalekv.kv.kernels.coded_tables`.
        columns: (3, n) int32, see `scalekv.kv.kernels.coded_values`.
        sections: (levels + 1, 4) int64; the third of each level is where its codes begin in
            `codes`.
        gains: the least and the most.
        codes: (codes of all levels,) uint8.
    """
    starts, steps = tables
    energies = _coded_energies(values, basis, starts, steps, columns, levels)
    found: Tensor = _coded_codes(
        values, energies, counts, starts, steps, columns, sections, *gains, codes
    )
    return found
