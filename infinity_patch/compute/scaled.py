"""Products of 8-bit floating-point numbers, where the device has them. Knows devices, tensors."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from scalekv.infinity_patch.compute.kernels.rows_in_fp8 import rows_in_fp8

LEAST_CAPABILITY = (8, 9)
"""Compute capability of the first NVIDIA GPUs that multiply float8: Ada Lovelace, then Hopper."""
MULTIPLE = 16
"""Of what inputs and outputs have to be for these products."""


@cache
def has_fp8_products(device: torch.device) -> bool:
    """Whether a device multiplies float8 matrices."""
    if device.type != "cuda" or torch.version.hip is not None:
        return False
    return torch.cuda.get_device_capability(device) >= LEAST_CAPABILITY


def multiplies_fp8(x: Tensor, held: Tensor) -> bool:
    """Whether x (…, in) is multiplied in float8 by weights (out, in) that are held in it."""
    if held.dtype is not torch.float8_e4m3fn or x.dtype is not torch.bfloat16:
        return False
    if torch.is_grad_enabled() or any(size % MULTIPLE for size in held.shape):
        return False
    return has_fp8_products(x.device)


def scaled_linear(x: Tensor, held: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    """x (…, in) bf16 times the weights (out, in) float8 with a scale (out,) a row, plus bias (out,)
    bf16: (…, out) bf16. Each row of x is quantised by its own largest number."""
    rows, factor = rows_in_fp8(x.reshape(-1, x.shape[-1]))
    out: Tensor = torch._scaled_mm(
        rows,
        held.t(),
        scale_a=factor,
        scale_b=scale.unsqueeze(0),
        bias=bias,
        out_dtype=torch.bfloat16,
        use_fast_accum=True,
    )
    return out.view(*x.shape[:-1], -1)
