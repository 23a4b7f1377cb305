"""What the processor at hand is good at: bf16, and how many rows to work on at once.

Knows processors and shapes; nothing of models.
"""

from __future__ import annotations

from collections.abc import Iterator

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
