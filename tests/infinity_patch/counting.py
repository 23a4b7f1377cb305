"""An allocator that only counts: the bytes of tensors alive at once, on any device, `meta` too.

A model on the meta device runs through shapes without a byte of memory, so that what a large one
would allocate can be counted in seconds.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Counting(TorchDispatchMode):
    """Counts inside a `with` block.

    Attributes:
        live: bytes of the tensors alive that were made in the block.
        peak: the most `live` has been.
        where: what was being computed at the peak.
    """

    def __init__(self, device: str = "meta") -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = 0
        self.peak = 0
        self.where = ""
        self._device = device
        self._seen: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = {_storage(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        for leaf in tree_leaves(out):
            # what shares memory with something given is no new memory
            if (
                isinstance(leaf, Tensor)
                and leaf.device.type == self._device
                and _storage(leaf) not in given
            ):
                self._count(leaf, str(func))
        return out

    def _count(self, tensor: Tensor, where: str) -> None:
        storage = tensor.untyped_storage()
        key = _storage(tensor)
        if key in self._seen and self._seen[key]() is not None:
            return
        size = storage.nbytes()

        def gone(_: object) -> None:
            self.live -= size
            self._seen.pop(key, None)

        self._seen[key] = weakref.ref(storage, gone)
        self.live += size
        if self.live > self.peak:
            self.peak, self.where = self.live, where

    def forget_peak(self) -> None:
        """From here on, `peak` is that of what follows."""
        self.peak = self.live


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


@contextmanager
def shapes_only() -> Iterator[None]:
    """Makes what has no rule for the meta device go through it: attention as a fused kernel has
    it, an answer and no matrix of scores."""

    def fused(q: Tensor, k: Tensor, v: Tensor, **_: Any) -> Tensor:
        return torch.empty_like(q)

    real = F.scaled_dot_product_attention
    F.scaled_dot_product_attention = fused  # type: ignore[assignment]
    try:
        yield
    finally:
        F.scaled_dot_product_attention = real
