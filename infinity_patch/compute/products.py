"""The one door to every linear layer: by the fastest product the processor has where the layer is a
plain one, and as the module that it is where anything was done to it. Knows modules and tensors."""

from __future__ import annotations

from functools import cache
from itertools import chain
from typing import TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from scalekv.infinity_patch.compute.processor import features
from scalekv.infinity_patch.compute.quantised import QuantisedLinear
from scalekv.infinity_patch.compute.scaled import multiplies_fp8, scaled_linear
from scalekv.kv.autocast import without_autocast

FEW_ROWS = 8
"""Rows up to which a CPU multiplies by int8 weights as they are: reading them takes longest."""

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def apply(
    layer: nn.Module,
    x: Tensor,
    dtype: torch.dtype | None = None,
    *,
    bias: Tensor | None = None,
    first: int | None = None,
    gelu: bool = False,
) -> Tensor:
    """A linear layer of x (…, in), whatever dtype x is in.

    An adapter, a layer somebody else quantised or offloaded, one with hooks or with a forward of
    its own is called once with all of x, in the dtype of its weights.

    Args:
        dtype: to compute in, whatever the caller's autocast says; None: that of the weights. What
            is called gives its answer in this dtype.
        bias: (out,) added instead of the layer's own, of a layer that has none.
        first: only so many of the outputs; None: all.
        gelu: followed by GELU (tanh).

    Returns:
        (…, out).
    """
    if not is_plain(layer):
        return _called(layer, x, dtype, bias, first, gelu)
    bias = layer.bias if bias is None else bias
    bias = None if bias is None else bias[:first]
    if isinstance(layer, QuantisedLinear):
        with without_autocast(x):
            out = _by_8_bits(layer, x.to(layer.dtype), bias, first, gelu)
        return out if dtype is None else out.to(dtype)
    weight = layer.weight[:first]
    if dtype is None:
        return linear(x, weight, bias, gelu=gelu)
    weight, bias = weight.to(dtype), None if bias is None else bias.to(dtype)
    with without_autocast(x):
        return linear(x, weight, bias, gelu=gelu)


def is_plain(layer: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether a layer does nothing but multiply by its weight and add its bias."""
    return (
        isinstance(layer, nn.Linear)
        and type(layer) in (nn.Linear, QuantisedLinear)
        and type(layer.weight) in (nn.Parameter, Tensor)
        and (layer.weight.is_floating_point() or isinstance(layer, QuantisedLinear))
        and "forward" not in layer.__dict__
        and not any(layer.__dict__[name] for name in HOOKS)
        and not _has_any_global_hook()
    )


def weights_dtype(layer: nn.Module) -> torch.dtype | None:
    """The floating dtype a linear layer computes in; None where its tensors do not say."""
    if isinstance(layer, QuantisedLinear):
        return layer.dtype
    weight = getattr(layer, "weight", None)
    if isinstance(weight, Tensor) and weight.is_floating_point():
        return weight.dtype
    tensors = chain(layer.parameters(), layer.buffers())
    return next((t.dtype for t in tensors if t.is_floating_point()), None)


def weights_of(layer: nn.Module) -> Tensor:
    """(out, in) what a linear layer multiplies by, in the dtype it computes in. Of a layer that
    holds something else it is there until the next product."""
    if isinstance(layer, QuantisedLinear):
        return layer.written()
    assert isinstance(layer.weight, Tensor), type(layer)
    return layer.weight


def _by_8_bits(
    layer: QuantisedLinear, x: Tensor, bias: Tensor | None, first: int | None, gelu: bool
) -> Tensor:
    """A product of x (…, in), in the dtype of the layer."""
    held, scale = layer.weight[:first], layer.weight_scale[:first]
    if multiplies_fp8(x, held):
        out = scaled_linear(x, held, scale, bias)
    elif _has_few_rows(x, held):
        flat = x.reshape(-1, x.shape[-1])
        out = torch._weight_int8pack_mm(flat, held, scale.to(x.dtype)).view(*x.shape[:-1], -1)
        out = out if bias is None else out.add_(bias)
    else:
        return linear(x, layer.written(first), bias, gelu=gelu)
    return F.gelu(out, approximate="tanh") if gelu else out


def _has_few_rows(x: Tensor, held: Tensor) -> bool:
    if x.device.type != "cpu" or torch.is_grad_enabled():
        return False
    few = x.numel() <= FEW_ROWS * x.shape[-1]
    return few and x.dtype is torch.bfloat16 and held.dtype is torch.int8


def _called(
    layer: nn.Module,
    x: Tensor,
    dtype: torch.dtype | None,
    bias: Tensor | None,
    first: int | None,
    gelu: bool,
) -> Tensor:
    out: Tensor = layer(x.to(weights_dtype(layer) or x.dtype))
    if first is not None:
        out = out[..., :first]
    if bias is not None:
        out = out + bias[:first].to(out.dtype)
    out = out if dtype is None else out.to(dtype)
    return F.gelu(out, approximate="tanh") if gelu else out


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
    if gelu and bias is not None and _has_gelu_inside(x):
        flat = torch._addmm_activation(bias, x.flatten(0, -2), weight.t(), use_gelu=True)
        activated: Tensor = flat.unflatten(0, x.shape[:-1])
        return activated
    out = F.linear(x, weight, bias)
    return F.gelu(out, approximate="tanh") if gelu else out


def _has_gelu_inside(x: Tensor) -> bool:
    """Whether the device's product ends with bias and GELU (tanh) in the same kernel.

    CUDA's do, and shapes without memory go the same way. In half precision alone: what float32 is
    chosen for is the plain formula.
    """
    if x.device.type not in ("cuda", "meta") or torch.is_grad_enabled():
        return False
    return x.dtype in (torch.float16, torch.bfloat16)


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
