"""What the processor at hand is good at: bf16, and how many rows to work on at once.

Knows processors and shapes; nothing of models.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

ROWS = 512
"""Rows of hidden states, of all sequences together, that go through a chain of operations at a
time on a CPU: enough for matrix products to run at full rate, few enough for what lies between
them to stay in the last-level cache."""


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
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return frozenset()
    lines = info.read_text(encoding="utf-8").splitlines()
    return frozenset(next((s.split(":")[1].split() for s in lines if s.startswith("flags")), ()))


def fast_bf16() -> bool:
    """Whether the processor multiplies bf16 matrices faster than float32 ones."""
    return bool(features() & {"avx512_bf16", "amx_bf16"})


def fused_attention_is_fast() -> bool:
    """Whether torch's fused attention uses the processor's bf16 products.

    With AVX512-BF16 alone it multiplies in float32; only with AMX it does not.
    """
    return not fast_bf16() or "amx_bf16" in features()
