"""A layer's answer added to the residual stream, and the norm of the sum, which is what the next
layer is given. Knows hidden states only."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from scalekv.infinity_patch.compute.kernels import norm as norms
from scalekv.infinity_patch.compute.kernels.norm import EPS, sequence_stride, warps
from scalekv.kv.kernels.operator import Kernel, Operator, power_of_two, strides

if TYPE_CHECKING:
    import triton.language as tl


def _plain(
    x: Tensor, h: Tensor, gain: Tensor | None, factor: Tensor, shift: Tensor, dtype: torch.dtype
) -> Tensor:
    if gain is None:
        x.add_(h)
    else:
        torch.addcmul(x, gain, h.float(), out=x)
    return norms._plain(x, factor, shift, dtype)


@Kernel
def _kernel(
    x: tl.tensor,
    h: tl.tensor,
    gain: tl.tensor,
    factor: tl.tensor,
    shift: tl.tensor,
    out: tl.tensor,
    length: tl.tensor,
    width: tl.tensor,
    x_sequence: tl.tensor,
    x_token: tl.tensor,
    h_sequence: tl.tensor,
    h_token: tl.tensor,
    gain_sequence: tl.tensor,
    factor_sequence: tl.tensor,
    shift_sequence: tl.tensor,
    eps: tl.tensor,
    GAIN: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    sequence, token = row // length, row % length
    columns = tl.arange(0, COLUMNS)
    inside = columns < width
    stream = x + sequence * x_sequence + token * x_token + columns
    added = tl.load(
        h + sequence * h_sequence + token * h_token + columns, mask=inside, other=0.0
    ).to(tl.float32)
    if GAIN:
        added *= tl.load(gain + sequence * gain_sequence + columns, mask=inside, other=0.0)
    values = tl.load(stream, mask=inside, other=0.0) + added
    tl.store(stream, values, mask=inside)
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


def _fused(
    x: Tensor, h: Tensor, gain: Tensor | None, factor: Tensor, shift: Tensor, dtype: torch.dtype
) -> Tensor:
    sequences, length, width = x.shape
    out = torch.empty(x.shape, dtype=dtype, device=x.device)
    columns = power_of_two(width)
    _kernel.launch(
        (sequences * length,),
        x,
        h,
        x if gain is None else gain,
        factor,
        shift,
        out,
        length,
        width,
        *strides(x),
        *strides(h),
        0 if gain is None else sequence_stride(gain),
        sequence_stride(factor),
        sequence_stride(shift),
        EPS,
        GAIN=gain is not None,
        COLUMNS=columns,
        num_warps=warps(columns),
    )
    return out


def _shapes(
    x: Tensor, h: Tensor, gain: Tensor | None, factor: Tensor, shift: Tensor, dtype: torch.dtype
) -> Tensor:
    return x.new_empty(x.shape, dtype=dtype)


_add_norm = Operator(
    "add_norm(Tensor(a!) x, Tensor h, Tensor? gain, Tensor factor, Tensor shift, ScalarType dtype)"
    " -> Tensor",
    plain=_plain,
    fused=_fused,
    shapes=_shapes,
    launches=1,
)


def add_norm(
    x: Tensor, h: Tensor, gain: Tensor | None, factor: Tensor, shift: Tensor, dtype: torch.dtype
) -> Tensor:
    """Adds h, times `gain` where there is one, to x, and returns the norm of the sum.

    Args:
        x: (G, L, C) float32, written over.
        h: (G, L, C).
        gain: (G, 1, C) float32.
        factor, shift, dtype: of the norm, see `norm`.
    """
    out: Tensor = _add_norm(x, h, gain, factor, shift, dtype)
    return out
