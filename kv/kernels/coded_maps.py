"""Coefficients of a map to keys and values: the inverse cosine transform over rows and columns,
guidance halves from middle and side, keys turned. Knows matrices; nothing of codes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from scalekv.kv.halves import both_halves, turned
from scalekv.kv.kernels.operator import Kernel, Operator, pieces, power_of_two, strides

if TYPE_CHECKING:
    import triton.language as tl

_NUMBERS = 32  # of one program beside a line of the map


def _plain(
    values: Tensor,
    places: Tensor,
    mean: Tensor,
    rows: Tensor,
    columns: Tensor,
    turns: Tensor | None,
    growth: float,
    everywhere: bool,
    k: Tensor,
    v: Tensor,
) -> None:
    plane = values.index_select(3, places)
    at = plane if everywhere else plane[:, :, :, :1]
    at += growth * mean.float()[:, :, :, None, None]
    plane = plane.unflatten(3, (len(rows), len(columns)))
    plane = torch.einsum("khpijbd,iy,jx->khpyxbd", plane, rows, columns).flatten(3, 4)
    if plane.shape[2] == 2:
        plane = both_halves(plane[:, :, 0], plane[:, :, 1], dim=2)
    for x, angles, out in zip(plane, (turns, None), (k, v), strict=True):
        if angles is not None:
            x = turned(x, torch.view_as_complex(angles).unsqueeze(1))
        out.unflatten(0, (x.shape[1], -1)).copy_(x.permute(1, 3, 0, 2, 4))


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
    line_stride: tl.tensor,
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
    place = tl.load(places + row * count_columns + column, mask=tall, other=0)
    source = values + line * line_stride + place[:, None].to(tl.int64) * length_line
    value = tl.load(source + number[None, :], mask=known, other=0.0)
    shift = tl.load(mean + line * dim + number % dim, mask=real, other=0.0).to(tl.float32) * growth
    if EVERYWHERE:
        value += shift[None, :]
    else:
        value += tl.where((row == 0)[:, None] & (column == 0), shift[None, :], 0.0)
    value = tl.where(known, value, 0.0)
    square = tall[:, None] & tall[None, :]
    wave = tl.load(waves + row[None, :] * count_rows + row[:, None], mask=square, other=0.0)
    found = tl.dot(wave, value, input_precision="ieee")
    target = out + ((line * count_rows + row[:, None]) * count_columns + column) * length_line
    tl.store(target + number[None, :], found, mask=known)


@Kernel
def _columns(
    values: tl.tensor,
    waves: tl.tensor,
    turns: tl.tensor,
    k: tl.tensor,
    v: tl.tensor,
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
    square = wide[:, None] & wide[None, :]
    wave = tl.load(waves + place[None, :] * count_columns + place[:, None], mask=square, other=0.0)
    line = of_head * PARTS
    source = values + ((line * count_rows + row) * count_columns + place)[:, None] * (
        2 * pictures * PAIRS
    )
    source += 2 * pair[None, :]
    further = count_rows.to(tl.int64) * count_columns * 2 * pictures * PAIRS
    even = tl.dot(wave, tl.load(source, mask=known, other=0.0), input_precision="ieee")
    odd = tl.dot(wave, tl.load(source + 1, mask=known, other=0.0), input_precision="ieee")
    other_even, other_odd = even, odd
    if PARTS == 2:
        side = tl.load(source + further, mask=known, other=0.0)
        side_even = tl.dot(wave, side, input_precision="ieee")
        side = tl.load(source + further + 1, mask=known, other=0.0)
        side_odd = tl.dot(wave, side, input_precision="ieee")
        other_even, other_odd = even - side_even, odd - side_odd
        even, odd = even + side_even, odd + side_odd
    token = row * count_columns + place
    picture, channel = pair // PAIRS, 2 * (pair % PAIRS)
    is_value = of_head >= heads
    if TURNED:
        angle = turns + token[:, None] * (2 * PAIRS) + channel[None, :]
        cos = tl.load(angle, mask=known, other=1.0)
        sin = tl.load(angle + 1, mask=known, other=0.0)
        cos, sin = tl.where(is_value, 1.0, cos), tl.where(is_value, 0.0, sin)
        even, odd = even * cos - odd * sin, even * sin + odd * cos
        other_even, other_odd = (
            other_even * cos - other_odd * sin,
            other_even * sin + other_odd * cos,
        )
    head = of_head % heads
    if is_value:
        target = v + head * v_head + token[:, None].to(tl.int64) * v_token
        target += picture[None, :].to(tl.int64) * v_batch + channel[None, :]
        further = v_batch.to(tl.int64) * pictures
    else:
        target = k + head * k_head + token[:, None].to(tl.int64) * k_token
        target += picture[None, :].to(tl.int64) * k_batch + channel[None, :]
        further = k_batch.to(tl.int64) * pictures
    kind = k.dtype.element_ty
    tl.store(target, even.to(kind), mask=known)
    tl.store(target + 1, odd.to(kind), mask=known)
    if PARTS == 2:
        tl.store(target + further, other_even.to(kind), mask=known)
        tl.store(target + further + 1, other_odd.to(kind), mask=known)


def _fused(
    values: Tensor,
    places: Tensor,
    mean: Tensor,
    rows: Tensor,
    columns: Tensor,
    turns: Tensor | None,
    growth: float,
    everywhere: bool,
    k: Tensor,
    v: Tensor,
) -> None:
    kinds, heads, parts, tokens, pictures, dim = values.shape
    height, width, together = len(rows), len(columns), pictures * dim
    between = torch.empty(
        (kinds * heads * parts, tokens, together), dtype=torch.float32, device=values.device
    )
    assert values.stride(0) == heads * values.stride(1)
    assert values.stride()[3:] == (together, dim, 1)
    assert k.dtype == v.dtype
    _rows.launch(
        (kinds * heads * parts, width, pieces(together, _NUMBERS)),
        values,
        places,
        mean,
        rows,
        between,
        height,
        width,
        together,
        values.stride(1) // parts,
        dim,
        growth,
        EVERYWHERE=everywhere,
        HEIGHT=max(power_of_two(height), 16),
        NUMBERS=_NUMBERS,
    )
    _columns.launch(
        (kinds * heads, height, pieces(together // 2, _NUMBERS)),
        between,
        columns,
        columns if turns is None else turns,
        k,
        v,
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


def _shapes(*_: object) -> None:
    return None


_coded_maps = Operator(
    "coded_maps(Tensor values, Tensor places, Tensor mean, Tensor rows, Tensor columns, "
    "Tensor? turns, float growth, bool everywhere, Tensor(a!) k, Tensor(b!) v) -> ()",
    plain=_plain,
    fused=_fused,
    shapes=_shapes,
    launches=2,
)


def coded_maps(
    values: Tensor,
    places: Tensor,
    mean: Tensor,
    rows: Tensor,
    columns: Tensor,
    turns: Tensor | None,
    growth: float,
    everywhere: bool,
    k: Tensor,
    v: Tensor,
) -> None:
    """Writes one map's keys and values into k and v (P * B, H, n, D), n = h w.

    Args:
        values: (2, H, P, n, B, D) float32 coefficients, keys first.
        places: (n,) whole numbers: which of them lies at each place of the transform, row by row.
        mean: (2, H, P, D); `growth` times it is added to the first of them, or to all:
            `everywhere`.
        rows, columns: (h, h) and (w, w) float32: waves of a frequency each.
        turns: (n, D / 2, 2) float32: cosine and sine of what pairs of a key's channels are turned
            by.
    """
    _coded_maps(values, places, mean, rows, columns, turns, growth, everywhere, k, v)
