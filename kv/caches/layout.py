"""How keys and values lie in memory: always seen as (B, H, T, D), token by token where kernels read
strided, head by head where plain products do. Knows shapes only."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def by_token(device: torch.device) -> bool:
    """Whether all heads of a token lie together, (B, T, H, D).

    So a projection writes them, and the attention kernels of devices read and write them as they
    lie. A processor's attention is made of products that want the tokens of each head together.
    """
    return device.type != "cpu"


def empty(shape: tuple[int, ...], *, by_token: bool, **options: Any) -> Tensor:
    """(..., H, T, D), lying (..., T, H, D) where asked; `options` are `torch.empty`'s."""
    if not by_token:
        return torch.empty(shape, **options)
    *before, heads, tokens, dim = shape
    return torch.empty((*before, tokens, heads, dim), **options).transpose(-2, -3)
