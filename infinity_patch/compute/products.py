"""Linear layers by the fastest product the processor has. Knows tensors only."""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scalekv.infinity_patch.compute.processor import features


def apply(
    layer: nn.Linear, x: Tensor, dtype: torch.dtype | None = None, *, gelu: bool = False
) -> Tensor:
    """`layer` of x computed in `dtype`, whatever dtype x is in; None: that of its weights."""
    weight = layer.weight if dtype is None else layer.weight.to(dtype)
    bias = layer.bias if dtype is None or layer.bias is None else layer.bias.to(dtype)
    return linear(x, weight, bias, gelu=gelu)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, *, gelu: bool = False) -> Tensor:
    """x (…, in) times weight (out, in) transposed, plus bias, in the weights' dtype.

    With `gelu` followed by GELU (tanh), before the sum is rounded where the product allows it.
    """
    x = x.to(weight.dtype)
    if _is_for_onednn(x):
        # What torch.compile makes of a linear layer. Several times torch's own float32 product on
        # AMD; equal to its bf16 one bit for bit, but without a pass for the bias and one for GELU.
        kind = ("gelu", "tanh") if gelu else ("none", "")
        out: Tensor = torch.ops.mkldnn._linear_pointwise(
            x.contiguous(), weight, bias, kind[0], [], kind[1]
        )
        return out
    out = F.linear(x, weight, bias)
    return F.gelu(out, approximate="tanh") if gelu else out


def _is_for_onednn(x: Tensor) -> bool:
    if x.device.type != "cpu" or torch.is_grad_enabled():
        return False
    return x.dtype in _onednn_dtypes()


@cache
def _onednn_dtypes() -> frozenset[torch.dtype]:
    """What oneDNN multiplies on this processor."""
    if "avx2" not in features() or not torch.backends.mkldnn.is_available():
        return frozenset()
    half = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return frozenset({torch.float32, torch.bfloat16} if half else {torch.float32})
