"""Rows of activations in 8-bit floating point, each with a scale of its own, in one pass. Knows
rows alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from scalekv.infinity_patch.compute.kernels.norm import warps
from scalekv.kv.kernels.operator import Kernel, Operator, power_of_two

if TYPE_CHECKING:
    import triton.language as tl

KIND = torch.float8_e4m3fn
MOST = 448.0
LEAST = 1e-12
"""A row's largest number counts as at least this, so that a row of zeros has a scale."""


def _plain(x: Tensor) -> tuple[Tensor, Tensor]:
    rows = x.float()
    scale = rows.abs().amax(1, keepdim=True).clamp_min(LEAST) / MOST
    return (rows / scale).clamp_(-MOST, MOST).to(KIND), scale


@Kernel
def _kernel(
    x: tl.tensor,
    out: tl.tensor,
    scale: tl.tensor,
    width: tl.tensor,
    most: tl.tensor,
    least: tl.tensor,
    COLUMNS: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, COLUMNS)
    inside = columns < width
    values = tl.load(x + row * width + columns, mask=inside, other=0.0).to(tl.float32)
    factor = tl.maximum(tl.max(tl.abs(values), 0), least) / most
    values = tl.minimum(tl.maximum(values / factor, -most), most)
    tl.store(out + row * width + columns, values.to(out.dtype.element_ty), mask=inside)
    tl.store(scale + row, factor)


def _fused(x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.contiguous()
    out, scale = _shapes(x)
    columns = power_of_two(x.shape[1])
    _kernel.launch(
        (len(x),),
        x,
        out,
        scale,
        x.shape[1],
        MOST,
        LEAST,
        COLUMNS=columns,
        num_warps=warps(columns),
    )
    return out, scale


def _shapes(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape, dtype=KIND), x.new_empty((len(x), 1), dtype=torch.float32)


_rows_in_fp8 = Operator(
    "rows_in_fp8(Tensor x) -> (Tensor, Tensor)",
    plain=_plain,
    fused=_fused,
    shapes=_shapes,
    launches=1,
)


def rows_in_fp8(x: Tensor) -> tuple[Tensor, Tensor]:
    """x (L, C) as (L, C) float8_e4m3fn and (L, 1) float32, times which a row is what it was."""
    out: tuple[Tensor, Tensor] = _rows_in_fp8(x)
    return out
