"""Keys and values of a map to its coefficients: keys turned back, guidance halves to middle and
side, the cosine transform over columns and rows, the mean taken away. The reverse of `coded_maps`;
knows matrices, nothing of codes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from scalekv.kv.halves import middle_and_side, turned
from scalekv.kv.kernels.operator import Kernel, Operator, pieces, power_of_two, strides

if TYPE_CHECKING:
    import triton.language as tl

_NUMBERS = 32  # of one program beside a line of the map


def _plain(
    k: Tensor,
    v: Tensor,
    turns: Tensor | None,
    places: Tensor,
    mean: Tensor,
    rows: Tensor,
    columns: Tensor,
    growth: float,
    everywhere: bool,
) -> Tensor:
    kinds = []
    for x, angles in ((k.float(), turns), (v.float(), None)):
        if angles is not None:
            x = turned(x, torch.view_as_complex(angles).conj())
        halves = x.unflatten(0, (mean.shape[2], -1))
        signals = halves if len(halves) == 1 else middle_and_side(halves[0], halves[1], dim=0)
        kinds.append(signals.permute(2, 0, 3, 1, 4))
    plane = torch.stack(kinds).unflatten(3, (len(rows), len(columns)))
    plane = torch.einsum("khpyxbd,iy,jx->khpijbd", plane, rows, columns).flatten(3, 4)
    found = torch.empty_like(plane)
    found[:, :, :, places.long()] = plane
    at = found if everywhere else found[:, :, :, :1]
    at -= growth * mean.float()[:, :, :, None, None]
    return found


@Kernel
def _columns(
    k: tl.tensor,
    v: tl.tensor,
    turns: tl.tensor,
    waves: tl.tensor,
    out: tl.tensor,
    heads: tl.tensor,
    count_rows: tl.tensor,
    count_columns: tl.tensor,
    pictures: tl.tensor,
    k_batch: tl.tensor,
    k_head: tl.tensor,
    k_token: tl.tensor,
    v_batch: tl.tensor,
    v_head: tl.tensor,
    v_token: tl.tensor,
    TURNED: tl.constexpr,
    PARTS: tl.constexpr,
    PAIRS: tl.constexpr,
    WIDTH: tl.constexpr,
    NUMBERS: tl.constexpr,
) -> None:
    of_head = tl.program_id(0).to(tl.int64)  # keys before values, heads
    row = tl.program_id(1)
    place = tl.arange(0, WIDTH)
    pair = tl.program_id(2) * NUMBERS + tl.arange(0, NUMBERS)  # picture by picture
    wide, real = place < count_columns, pair < pictures * PAIRS
    known = wide[:, None] & real[None, :]
    token = row * count_columns + place
    picture, channel = pair // PAIRS, 2 * (pair % PAIRS)
    head, is_value = of_head % heads, of_head >= heads
    if is_value:
        source = v + head * v_head + token[:, None].to(tl.int64) * v_token
        source += picture[None, :].to(tl.int64) * v_batch + channel[None, :]
        further = v_batch.to(tl.int64) * pictures
    else:
        source = k + head * k_head + token[:, None].to(tl.int64) * k_token
        source += picture[None, :].to(tl.int64) * k_batch + channel[None, :]
        further = k_batch.to(tl.int64) * pictures
    even = tl.load(source, mask=known, other=0.0).to(tl.float32)
    odd = tl.load(source + 1, mask=known, other=0.0).to(tl.float32)
    side_even, side_odd = even, odd
    if PARTS == 2:
        other_even = tl.load(source + further, mask=known, other=0.0).to(tl.float32)
        other_odd = tl.load(source + further + 1, mask=known, other=0.0).to(tl.float32)
        side_even, side_odd = (even - other_even) * 0.5, (odd - other_odd) * 0.5
        even, odd = (even + other_even) * 0.5, (odd + other_odd) * 0.5
    if TURNED:
        angle = turns + token[:, None] * (2 * PAIRS) + channel[None, :]
        cos = tl.load(angle, mask=known, other=1.0)
        sin = tl.load(angle + 1, mask=known, other=0.0)
        cos, sin = tl.where(is_value, 1.0, cos), tl.where(is_value, 0.0, sin)
        even, odd = even * cos + odd * sin, odd * cos - even * sin
        if PARTS == 2:
            side_even, side_odd = (
                side_even * cos + side_odd * sin,
                side_odd * cos - side_even * sin,
            )
    square = wide[:, None] & wide[None, :]
    wave = tl.load(waves + place[:, None] * count_columns + place[None, :], mask=square, other=0.0)
    line = of_head * PARTS
    target = out + ((line * count_rows + row) * count_columns + place)[:, None] * (
        2 * pictures * PAIRS
    )
    target += 2 * pair[None, :]
    tl.store(target, tl.dot(wave, even, input_precision="ieee"), mask=known)
    tl.store(target + 1, tl.dot(wave, odd, input_precision="ieee"), mask=known)
    if PARTS == 2:
        target += count_rows.to(tl.int64) * count_columns * 2 * pictures * PAIRS
        tl.store(target, tl.dot(wave, side_even, input_precision="ieee"), mask=known)
        tl.store(target + 1, tl.dot(wave, side_odd, input_precision="ieee"), mask=known)


@Kernel
def _rows(
    values: tl.tensor,
    places: tl.tensor,
    mean: tl.tensor,
    waves: tl.tensor,
    out: tl.tensor,
    count_rows: tl.tensor,
    count_columns: tl.tensor,
    length_line: tl.tensor,
    dim: tl.tensor,
    growth: tl.tensor,
    EVERYWHERE: tl.constexpr,
    HEIGHT: tl.constexpr,
    NUMBERS: tl.constexpr,
) -> None:
    line = tl.program_id(0).to(tl.int64)  # keys before values, heads, parts
    column = tl.program_id(1)
    row = tl.arange(0, HEIGHT)
    number = tl.program_id(2) * NUMBERS + tl.arange(0, NUMBERS)
    tall, real = row < count_rows, number < length_line
    known = tall[:, None] & real[None, :]
    source = values + ((line * count_rows + row[:, None]) * count_columns + column) * length_line
    value = tl.load(source + number[None, :], mask=known, other=0.0)
    square = tall[:, None] & tall[None, :]
    wave = tl.load(waves + row[:, None] * count_rows + row[None, :], mask=square, other=0.0)
    found = tl.dot(wave, value, input_precision="ieee")
    shift = tl.load(mean + line * dim + number % dim, mask=real, other=0.0).to(tl.float32) * growth
    if EVERYWHERE:
        found -= shift[None, :]
    else:
        found -= tl.where((row == 0)[:, None] & (column == 0), shift[None, :], 0.0)
    place = tl.load(places + row * count_columns + column, mask=tall, other=0)
    target = line * count_rows * count_columns + place.to(tl.int64)
    tl.store(out + target[:, None] * length_line + number[None, :], found, mask=known)


def _fused(
    k: Tensor,
    v: Tensor,
    turns: Tensor | None,
    places: Tensor,
    mean: Tensor,
    rows: Tensor,
    columns: Tensor,
    growth: float,
    everywhere: bool,
) -> Tensor:
    out = _shapes(k, v, turns, places, mean, rows, columns, growth, everywhere)
    kinds, heads, parts, _, pictures, dim = out.shape
    height, width, together = len(rows), len(columns), pictures * dim
    between = torch.empty_like(out)
    assert k.dtype == v.dtype
    _columns.launch(
        (kinds * heads, height, pieces(together // 2, _NUMBERS)),
        k,
        v,
        columns if turns is None else turns,
        columns,
        between,
        heads,
        height,
        width,
        pictures,
        *strides(k),
        *strides(v),
        TURNED=turns is not None,
        PARTS=parts,
        PAIRS=dim // 2,
        WIDTH=max(power_of_two(width), 16),
        NUMBERS=_NUMBERS,
    )
    _rows.launch(
        (kinds * heads * parts, width, pieces(together, _NUMBERS)),
        between,
        places,
        mean,
        rows,
        out,
        height,
        width,
        together,
        dim,
        growth,
        EVERYWHERE=everywhere,
        HEIGHT=max(power_of_two(height), 16),
        NUMBERS=_NUMBERS,
    )
    return out


def _shapes(
    k: Tensor,
    v: Tensor,
    turns: Tensor | None,
    places: Tensor,
    mean: Tensor,
    rows: Tensor,
    columns: Tensor,
    growth: float,
    everywhere: bool,
) -> Tensor:
    kinds, heads, parts, dim = mean.shape
    shape = (kinds, heads, parts, len(rows) * len(columns), len(k) // parts, dim)
    return rows.new_empty(shape)


_coded_waves = Operator(
    "coded_waves(Tensor k, Tensor v, Tensor? turns, Tensor places, Tensor mean, Tensor rows, "
    "Tensor columns, float growth, bool everywhere) -> Tensor",
    plain=_plain,
    fused=_fused,
    shapes=_shapes,
    launches=2,
)


def coded_waves(
    k: Tensor,
    v: Tensor,
    turns: Tensor | None,
    places: Tensor,
    mean: Tensor,
    rows: Tensor,
    columns: Tensor,
    growth: float,
    everywhere: bool,
) -> Tensor:
    """Coefficients (2, H, P, n, B, D) float32 of one map's keys and values (P * B, H, n, D), n =
    h w, in the model's own channels.

    Args:
        turns, places, rows, columns: see `scalekv.kv.kernels.coded_maps`.
        mean: (2, H, P, D); `growth` times it is taken from the first of them, or from all:
            `everywhere`.
    """
    found: Tensor = _coded_waves(k, v, turns, places, mean, rows, columns, growth, everywhere)
    return found
