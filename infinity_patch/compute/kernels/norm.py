"""Layer norm with factor and shift, cast on the way out. Knows hidden states only."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from scalekv.kv.kernels.operator import Kernel, Operator, power_of_two, strides

if TYPE_CHECKING:
    import triton.language as tl

EPS = 1e-6


def _plain(x: Tensor, factor: Tensor, shift: Tensor, dtype: torch.dtype) -> Tensor:
    if factor.dim() == 1:
        return F.layer_norm(x, x.shape[-1:], factor.float(), shift.float(), EPS).to(dtype)
    # one pass a sequence, whose factor and shift serve as the norm's own weight and bias
    out = torch.empty(x.shape, dtype=dtype, device=x.device)
    parts = zip(x, factor.squeeze(1), shift.squeeze(1), out, strict=True)
    for one, f, s, into in parts:
        into.copy_(F.layer_norm(one, one.shape[-1:], f, s, EPS))
    return out


@Kernel
def _kernel(
    x: tl.tensor,
    factor: tl.tensor,
    shift: tl.tensor,
    out: tl.tensor,
    length: tl.tensor,
    width: tl.tensor,
    x_sequence: tl.tensor,
    x_token: tl.tensor,
    factor_sequence: tl.tensor,
    shift_sequence: tl.tensor,
    eps: tl.tensor,
    COLUMNS: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    sequence, token = row // length, row % length
    columns = tl.arange(0, COLUMNS)
    inside = columns < width
    values = tl.load(x + sequence * x_sequence + token * x_token + columns, mask=inside, other=0.0)
    mean = tl.sum(values, 0) / width
    centred = tl.where(inside, values - mean, 0.0)
    deviation = tl.sqrt(tl.sum(centred * centred, 0) / width + eps)
    by = tl.load(factor + sequence * factor_sequence + columns, mask=inside, other=0.0).to(
        tl.float32
    )
    beside = tl.load(shift + sequence * shift_sequence + columns, mask=inside, other=0.0).to(
        tl.float32
    )
    normed = centred / deviation * by + beside
    tl.store(out + row * width + columns, normed.to(out.dtype.element_ty), mask=inside)


def _fused(x: Tensor, factor: Tensor, shift: Tensor, dtype: torch.dtype) -> Tensor:
    sequences, length, width = x.shape
    out = torch.empty(x.shape, dtype=dtype, device=x.device)
    columns = power_of_two(width)
    _kernel.launch(
        (sequences * length,),
        x,
        factor,
        shift,
        out,
        length,
        width,
        *strides(x),
        sequence_stride(factor),
        sequence_stride(shift),
        EPS,
        COLUMNS=columns,
        num_warps=warps(columns),
    )
    return out


def sequence_stride(x: Tensor) -> int:
    """Numbers from one sequence's (G, 1, C) vector to the next; 0 where one, (C,), serves all."""
    return 0 if x.dim() == 1 else x.stride(0)


def warps(columns: int) -> int:
    """Of a program that works on a row of so many columns."""
    return min(max(columns // 512, 4), 16)


def _shapes(x: Tensor, factor: Tensor, shift: Tensor, dtype: torch.dtype) -> Tensor:
    return x.new_empty(x.shape, dtype=dtype)


_norm = Operator(
    "norm(Tensor x, Tensor factor, Tensor shift, ScalarType dtype) -> Tensor",
    plain=_plain,
    fused=_fused,
    shapes=_shapes,
    launches=1,
)


def norm(x: Tensor, factor: Tensor, shift: Tensor, dtype: torch.dtype) -> Tensor:
    """Layer norm (eps 1e-6) of x (G, L, C) float32 times `factor` plus `shift`, cast to `dtype`.

    Factor and shift are (G, 1, C) float32 or, for all sequences the same, (C,) of any dtype.
    """
    out: Tensor = _norm(x, factor, shift, dtype)
    return out
