"""Turns the caller's autocast off for code that names its dtypes itself. Knows devices only."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import torch


class OnDevice(Protocol):
    """What is on a device, or will be."""

    @property
    def device(self) -> torch.device: ...


def without_autocast(like: OnDevice) -> AbstractContextManager[object]:
    """A block in which operations on tensors like this run in the dtypes they are given in."""
    kind = like.device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return torch.autocast(kind, enabled=False)
    return nullcontext()
