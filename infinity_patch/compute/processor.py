"""What the processor at hand is good at: bf16, and how many rows to work on at once.

Knows processors and shapes; nothing of models.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import torch
from torch import Tensor

from scalekv.infinity_patch.machine.machine import BF16, of_processor
from scalekv.infinity_patch.pieces import ROWS


def row_slices(x: Tensor) -> Iterator[slice]:
    """Slices of the tokens of x (B, L, C) that together cover all of them.

    On a CPU they are short; where gradients or another device are in use there is one.
    """
    length = x.shape[1]
    step = length
    if x.device.type == "cpu" and not torch.is_grad_enabled():
        step = max(ROWS // x.shape[0], 1)
    for start in range(0, length, step):
        yield slice(start, min(start + step, length))


@cache
def features() -> frozenset[str]:
    """The processor's instruction sets, by the names Linux gives them."""
    capabilities = getattr(torch.cpu, "get_capabilities", None)  # some versions of torch have none
    if capabilities is not None:
        return frozenset(name for name, has in capabilities().items() if has is True)
    return of_processor()


def fast_bf16() -> bool:
    """Whether the processor multiplies bf16 matrices faster than float32 ones."""
    return bool(features() & BF16)


def fused_attention_is_fast() -> bool:
    """Whether torch's fused attention uses the processor's bf16 products.

    With AVX512-BF16 alone it multiplies in float32; only with AMX it does not.
    """
    return not fast_bf16() or "amx_bf16" in features()
