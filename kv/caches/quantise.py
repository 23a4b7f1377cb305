"""Floating-point tensors to whole numbers of 8 or 4 bits with a scale and a zero-point, and back.
Knows tensors; nothing of caches."""

from __future__ import annotations

import torch
from torch import Tensor


def quantise(x: Tensor, bits: int, dim: int) -> tuple[Tensor, Tensor]:
    """Codes of x and what turns them back, with one scale and one zero-point along `dim`.

    Returns:
        packed codes, uint8 (two of 4 bits a byte, along the last axis), and the parameters,
        float16, x's shape with 1 along `dim` and a first axis of 2: scale, then zero-point. Every
        value is x's to within half a scale, but for the rounding of the parameters themselves.
    """
    exact = x.float()
    low, high = exact.aminmax(dim=dim, keepdim=True)
    parameters = torch.stack(((high - low) / (2**bits - 1), low)).half()
    scale, zero = parameters.float()
    # What does not vary has the scale 0: its codes are 0 and stand for the zero-point.
    codes = (exact - zero).div_(scale.masked_fill(scale == 0, 1.0)).round_()
    return _packed(codes.clamp_(0, 2**bits - 1).to(torch.uint8), bits), parameters


def restore(codes: Tensor, bits: int, scale: Tensor, zero: Tensor) -> Tensor:
    """float32 values of packed codes; scale and zero-point broadcast against the unpacked."""
    return torch.addcmul(zero.float(), unpacked(codes, bits).float(), scale.float())


def unpacked(codes: Tensor, bits: int) -> Tensor:
    """One uint8 per code."""
    if bits == 8:
        return codes
    return torch.stack((codes & 15, codes >> 4), dim=-1).flatten(-2)


def _packed(codes: Tensor, bits: int) -> Tensor:
    return codes if bits == 8 else codes[..., 0::2] | (codes[..., 1::2] << 4)
