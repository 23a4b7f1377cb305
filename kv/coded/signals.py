"""A map's keys and values as signals that code well: turned back, guidance halves as middle and
side, and cosine transformed over the map. Knows tensors; nothing of bits or constants."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from scalekv.kv.coded.units import WHOLE, MapUnits
from scalekv.kv.halves import both_halves, middle_and_side, turned


def signals_of(k: Tensor, v: Tensor, turns: Tensor | None, parts: int) -> Tensor:
    """(2, P, H, D, B, n) float32, keys first, of a map's k and v (P * B, H, n, D).

    Args:
        turns: (n, D / 2) complex, what each pair of channels of a key was multiplied by for its
            place; None: nothing.
        parts: P: 2 for guidance halves, conditional sequences first, to become middle and side; 1
            for sequences as they are.
    """
    keys = k.float()
    if turns is not None:
        keys = turned(keys, turns.conj())
    both = torch.stack((keys, v.float())).unflatten(1, (parts, -1))  # (2, P, B, H, n, D)
    if parts == 2:
        both = middle_and_side(both[:, 0], both[:, 1], dim=1)
    signals: Tensor = both.permute(0, 1, 3, 5, 2, 4).contiguous()
    return signals


def write_back(signals: Tensor, turns: Tensor | None, k_out: Tensor, v_out: Tensor) -> None:
    """The inverse, into (P * B, H, n, D) tensors of any dtype and strides."""
    if signals.shape[1] == 2:
        signals = both_halves(signals[:, 0], signals[:, 1], dim=1)
    keys, values = signals.permute(0, 1, 4, 2, 5, 3).flatten(1, 2)
    if turns is not None:
        keys = turned(keys, turns)
    k_out.copy_(keys)
    v_out.copy_(values)


def transformed(signals: Tensor, units: MapUnits) -> Tensor:
    """(…, n) tokens of a map to coefficients, sorted by unit."""
    if not units.transformed:
        return signals
    if units.tokens <= WHOLE:
        return signals @ _matrix(units, signals.device).mT
    rows, columns = (_cosines(side, signals.device) for side in (units.height, units.width))
    plane: Tensor = signals.unflatten(-1, (units.height, units.width))
    return (rows @ (plane @ columns.mT)).flatten(-2).index_select(-1, _order(units, signals.device))


def restored(coefficients: Tensor, units: MapUnits) -> Tensor:
    """The inverse of `transformed`."""
    if not units.transformed:
        return coefficients
    if units.tokens <= WHOLE:
        return coefficients @ _matrix(units, coefficients.device)
    rows, columns = (_cosines(side, coefficients.device) for side in (units.height, units.width))
    plain = torch.empty_like(coefficients)
    plain.index_copy_(-1, _order(units, coefficients.device), coefficients)
    plane: Tensor = plain.unflatten(-1, (units.height, units.width))
    return (rows.mT @ (plane @ columns)).flatten(-2)


# Ordinary tensors even under inference mode: they are kept, and used outside of it too.
@lru_cache(maxsize=256)
@torch.inference_mode(False)
def _cosines(side: int, device: torch.device) -> Tensor:
    """(side, side) orthonormal DCT-II: row i is the wave of frequency i."""
    places = torch.arange(side, dtype=torch.float64)
    waves = torch.cos(math.pi / side * (places + 0.5) * places[:, None]) * math.sqrt(2 / side)
    waves[0] /= math.sqrt(2)
    return waves.float().to(device)


@lru_cache(maxsize=256)
@torch.inference_mode(False)
def _matrix(units: MapUnits, device: torch.device) -> Tensor:
    """(n, n) of a whole map, rows sorted by unit."""
    rows, columns = (_cosines(side, torch.device("cpu")) for side in (units.height, units.width))
    return torch.kron(rows, columns)[list(units.order)].to(device)


@lru_cache(maxsize=256)
@torch.inference_mode(False)
def _order(units: MapUnits, device: torch.device) -> Tensor:
    return torch.tensor(units.order, device=device)
