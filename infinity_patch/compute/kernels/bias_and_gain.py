"""What a self-attention's parameters come to: the bias of its fused projection and its heads'
gains. Knows vectors of parameters; nothing of hidden states."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from scalekv.kv.kernels.operator import Kernel, Operator, pieces, power_of_two

if TYPE_CHECKING:
    import triton.language as tl

MAX_LOG_SCALE = math.log(100)
_BLOCK = 1024


def _plain(q_bias: Tensor, v_bias: Tensor, scales: Tensor) -> tuple[Tensor, Tensor]:
    gain = scales.float().clamp_max(MAX_LOG_SCALE).exp().view(1, -1, 1)
    bias = torch.cat([q_bias, torch.zeros_like(v_bias), v_bias])
    return bias, torch.cat([gain, torch.ones_like(gain)])


@Kernel
def _kernel(
    q_bias: tl.tensor,
    v_bias: tl.tensor,
    scales: tl.tensor,
    bias: tl.tensor,
    gain: tl.tensor,
    width: tl.tensor,
    heads: tl.tensor,
    highest: tl.tensor,
    HEADS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    places = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    of_queries = places < width
    of_values = (places >= 2 * width) & (places < 3 * width)
    value = tl.load(q_bias + places, mask=of_queries, other=0.0)
    value += tl.load(v_bias + places - 2 * width, mask=of_values, other=0.0)
    tl.store(bias + places, value, mask=places < 3 * width)
    head = tl.arange(0, HEADS)
    inside = tl.program_id(0) * HEADS + head < heads  # by the first program alone
    scale = tl.load(scales + head, mask=inside, other=0.0).to(tl.float32)
    tl.store(gain + head, tl.exp(tl.minimum(scale, highest)), mask=inside)
    tl.store(gain + heads + head, tl.full((HEADS,), 1.0, tl.float32), mask=inside)


def _fused(q_bias: Tensor, v_bias: Tensor, scales: Tensor) -> tuple[Tensor, Tensor]:
    bias, gain = _shapes(q_bias, v_bias, scales)
    heads = scales.numel()
    _kernel.launch(
        (pieces(len(bias), _BLOCK),),
        q_bias,
        v_bias,
        scales,
        bias,
        gain,
        len(q_bias),
        heads,
        MAX_LOG_SCALE,
        HEADS=power_of_two(heads),
        BLOCK=_BLOCK,
    )
    return bias, gain


def _shapes(q_bias: Tensor, v_bias: Tensor, scales: Tensor) -> tuple[Tensor, Tensor]:
    bias = q_bias.new_empty(2 * len(q_bias) + len(v_bias))
    return bias, scales.new_empty((2, scales.numel(), 1), dtype=torch.float32)


_bias_and_gain = Operator(
    "bias_and_gain(Tensor q_bias, Tensor v_bias, Tensor scales) -> (Tensor, Tensor)",
    plain=_plain,
    fused=_fused,
    shapes=_shapes,
    launches=1,
)


def bias_and_gain(q_bias: Tensor, v_bias: Tensor, scales: Tensor) -> tuple[Tensor, Tensor]:
    """(3 C,) bias of the fused projection, keys without one, and (2, H, 1) float32: the queries'
    learned scales and, for the keys, ones.

    q_bias and v_bias are (C,), scales H logarithms, of which none counts for more than 100.
    """
    if torch.is_grad_enabled():
        return _plain(q_bias, v_bias, scales)
    bias, gain = _bias_and_gain(q_bias, v_bias, scales)
    return bias, gain
