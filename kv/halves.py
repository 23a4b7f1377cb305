"""Signals that store well: keys turned back by their rotary angle, guidance halves as middle and
side. Knows tensors; nothing of caches or codes."""

from __future__ import annotations

import torch
from torch import Tensor


def turned(keys: Tensor, turns: Tensor) -> Tensor:
    """Keys (…, n, D) float32 with each pair of channels multiplied by its turn (n, D / 2) complex;
    by the conjugate they are turned back."""
    pairs = torch.view_as_complex(keys.contiguous().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * turns).flatten(-2)


def middle_and_side(c: Tensor, u: Tensor, dim: int) -> Tensor:
    """(c + u) / 2 and (c - u) / 2, stacked along a new axis."""
    return torch.stack((c + u, c - u), dim).mul_(0.5)


def both_halves(middle: Tensor, side: Tensor, dim: int) -> Tensor:
    """The inverse: c and u, stacked along a new axis."""
    return torch.stack((middle + side, middle - side), dim)
