"""Small things made on the host for a device, so that the host never waits for it: through pinned
memory, and those that are asked for again kept. Knows tensors only."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """x on a device; itself where it is there."""
    if device.type == "cuda" and x.device.type == "cpu":
        return x.pin_memory().to(device, non_blocking=True)
    return x.to(device)


@lru_cache(maxsize=4096)
def whole_numbers(
    values: tuple[int, ...], device: torch.device, dtype: torch.dtype = torch.int64
) -> Tensor:
    """(n,) on a device. Not to be written to: it is kept for the next call."""
    # An ordinary tensor even under inference mode: later calls outside it get the same one.
    with torch.inference_mode(False):
        return to_device(torch.tensor(values, dtype=dtype, device="cpu"), device)


@lru_cache(maxsize=64)
def counting_up(end: int, device: torch.device) -> Tensor:
    """(end,) int32 from 0 on. Not to be written to: it is kept for the next call."""
    with torch.inference_mode(False):
        return torch.arange(end, dtype=torch.int32, device=device)
