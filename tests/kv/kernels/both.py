"""A kernel and its plain formula side by side, on a CUDA device or, without one, interpreted."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from scalekv.kv.kernels.operator import Operator

pytest.importorskip("triton", reason="kernels are written in Triton, which is not installed")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
HALF, EXACT = torch.bfloat16, torch.float32


def counted(operator: Operator, *args: Any) -> Any:
    """What the kernel gives, having launched as often as the operator declares."""
    from triton.runtime.interpreter import GridExecutor
    from triton.runtime.jit import JITFunction

    owner, name = (GridExecutor, "__call__") if DEVICE == "cpu" else (JITFunction, "run")
    run, launches = getattr(owner, name), 0

    def counting(*args: Any, **kwargs: Any) -> Any:
        nonlocal launches
        launches += 1
        return run(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, counting)
        answer = operator.fused(*args)
    assert launches == operator.launches
    return answer


def normal(seed: int, *shape: int, dtype: torch.dtype = EXACT) -> Tensor:
    """Normally distributed numbers, the same for equal seeds."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).to(DEVICE, dtype)


def token_major(batch: int, heads: int, tokens: int, dim: int, dtype: torch.dtype) -> Tensor:
    """Zeros, (B, H, T, D), that lie token by token."""
    return torch.zeros(batch, tokens, heads, dim, dtype=dtype, device=DEVICE).transpose(1, 2)


def assert_as_plain(fused: Tensor, plain: Tensor) -> None:
    """In float32 equal to 1e-6, as a share of the largest number where that is above 1; in half
    precision each number is the other's or the next one."""
    assert (fused.dtype, fused.shape) == (plain.dtype, plain.shape)
    away = (fused.float() - plain.float()).abs()
    near = away <= 1e-6 * float(plain.float().abs().max().clamp_min(1.0))
    if plain.dtype == HALF:
        near |= (_in_order(fused) - _in_order(plain)).abs() <= 1
    assert bool(near.all()), float(away.max())


def _in_order(x: Tensor) -> Tensor:
    """Whole numbers that count the representable ones in order."""
    bits = x.contiguous().view(torch.int16).int()
    return torch.where(bits < 0, -(bits & 0x7FFF), bits)
