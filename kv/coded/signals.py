"""Keys and values as signals that code well: guidance halves as middle and side, keys turned back
by their rotary angle, maps through a cosine transform. Knows tensors; nothing of bits or caches.

A signal is (…, n, B, D): tokens of a map, or its coefficients, of B pictures, D channels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from scalekv.kv.coded.units import WHOLE, MapUnits
from scalekv.kv.halves import turned
from scalekv.kv.to_device import counting_up


def signals_of(tokens: Tensor, turns: Tensor | None, parts: int) -> Tensor:
    """(H, P, n, B, D) float32 of a map's keys, or values, (P * B, H, n, D).

    Args:
        turns: (n, D / 2) complex, what each pair of channels was multiplied by for its place;
            None: nothing.
        parts: P: 2 for guidance halves, conditional sequences first, to become middle and side; 1
            for sequences as they are.
    """
    x = tokens.float()
    if turns is not None:
        x = turned(x, turns.conj())
    x = torch.unflatten(x, 0, (parts, -1)).permute(2, 0, 3, 1, 4)
    if parts == 1:
        return x.contiguous()
    c, u = x.unbind(1)
    signals = x.new_empty(x.shape)
    torch.add(c, u, out=signals[:, 0])
    torch.sub(c, u, out=signals[:, 1])
    return signals.mul_(0.5)


def write_back(parts: Sequence[Tensor], turns: Tensor | None, out: Tensor) -> None:
    """The inverse: parts, (H, n, B, D) each, into (P * B, H, n, D) of any dtype and strides."""
    halves = parts
    if len(parts) == 2:
        middle, side = parts
        halves = (middle + side, middle - side)
    for half, to in zip(halves, out.chunk(len(halves)), strict=True):
        if turns is not None:
            half = turned(half, turns.unsqueeze(1))
        to.permute(1, 2, 0, 3).copy_(half)


def transformed(signals: Tensor, units: MapUnits, count: int | None = None) -> Tensor:
    """Tokens of a map to the coefficients of its first `count` units, or of all, sorted by unit."""
    count = len(units.sizes) if count is None else count
    if not units.transformed:
        return signals
    device = signals.device
    if units.tokens <= WHOLE:
        matrix = _matrix(units, device)[: units.ends[count]]
        return torch.unflatten(_times(matrix, signals.flatten(-2)), -1, signals.shape[-2:])
    rows, columns = units.boxes[count]
    plane = torch.unflatten(signals, -3, (units.height, units.width)).flatten(-3)
    lines = _times(_cosines(units.height, device)[:rows], plane)
    lines = torch.unflatten(lines, -1, (units.width, -1))
    found = _times(_cosines(units.width, device)[:columns], lines).flatten(-3, -2)
    found = found.index_select(-2, _order(units, count, device))
    return torch.unflatten(found, -1, signals.shape[-2:])


def restored(coefficients: Tensor, units: MapUnits) -> Tensor:
    """The inverse of `transformed`; coefficients behind those given are 0."""
    if not units.transformed:
        return coefficients
    device, rest = coefficients.device, coefficients.shape[-2:]
    known = coefficients.shape[-3]
    if units.tokens <= WHOLE:
        matrix = _matrix(units, device)[:known]
        return torch.unflatten(_times(matrix.mT, coefficients.flatten(-2)), -1, rest)
    count = units.ends.index(known)
    rows, columns = units.boxes[count]
    plane = coefficients.flatten(-2).index_select(-2, _places(units, count, device))
    plane = torch.unflatten(plane, -2, (rows, columns)).flatten(-2)
    lines = _times(_cosines(units.height, device)[:rows].mT, plane)
    lines = torch.unflatten(lines, -1, (columns, -1))
    found = _times(_cosines(units.width, device)[:columns].mT, lines)
    return torch.unflatten(found.flatten(-3, -2), -1, rest)


def waves_of(units: MapUnits, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """What kernels restore a map by: which coefficient lies at each place of the transform, row by
    row, (n,); and the waves of rows, (h, h), and columns, (w, w), float32."""
    if units.transformed:
        places = _places(units, len(units.sizes), device)
        return places, _cosines(units.height, device), _cosines(units.width, device)
    places = counting_up(units.tokens, device)
    return places, _none(units.height, device), _none(units.width, device)


def _times(matrix: Tensor, x: Tensor) -> Tensor:
    """(r, c) times each of (…, c, m); as torch.matmul, which would lay out x anew."""
    batch = x.flatten(0, -3)
    found = torch.bmm(matrix.expand(len(batch), -1, -1), batch)
    return torch.unflatten(found, 0, x.shape[:-2])


# Ordinary tensors even under inference mode: they are kept, and used outside of it too.
@lru_cache(maxsize=256)
@torch.inference_mode(False)
def _cosines(side: int, device: torch.device) -> Tensor:
    """(side, side) orthonormal DCT-II: row i is the wave of frequency i."""
    places = torch.arange(side, dtype=torch.float64)
    waves = torch.cos(math.pi / side * (places + 0.5) * places[:, None]) * math.sqrt(2 / side)
    waves[0] /= math.sqrt(2)
    return waves.float().to(device)


@lru_cache(maxsize=16)
@torch.inference_mode(False)
def _none(side: int, device: torch.device) -> Tensor:
    """(side, side): no transform."""
    return torch.eye(side, device=device)


@lru_cache(maxsize=256)
@torch.inference_mode(False)
def _matrix(units: MapUnits, device: torch.device) -> Tensor:
    """(n, n) of a whole map, rows sorted by unit."""
    rows, columns = (_cosines(side, torch.device("cpu")) for side in (units.height, units.width))
    return torch.kron(rows, columns)[list(units.order)].to(device)


@lru_cache(maxsize=1024)
@torch.inference_mode(False)
def _order(units: MapUnits, count: int, device: torch.device) -> Tensor:
    """Where each coefficient of the first `count` units lies in their box, row by row."""
    columns = units.boxes[count][1]
    order = torch.tensor(units.order[: units.ends[count]])
    return (order // units.width * columns + order % units.width).to(device)


@lru_cache(maxsize=1024)
@torch.inference_mode(False)
def _places(units: MapUnits, count: int, device: torch.device) -> Tensor:
    """The inverse: which coefficient lies at each place of the box."""
    return _order(units, count, device).argsort()
