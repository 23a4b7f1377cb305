"""Blocks that stay in host memory and take turns on a device.

Every block's tensors lie in one piece of host memory and are copied in one go into one of a few
places on the device, the next block's while the present one computes. Knows modules, devices and
copies; nothing of what the blocks compute.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

ALIGNMENT = 256
"""Bytes at whose multiples tensors begin, as the device's own allocations do."""
RESIDENT = 2
"""Blocks on the device at a time: the one that computes and the one that comes next."""

B = TypeVar("B", bound=nn.Module)


@dataclass
class _Home:
    """One block: which parameter of which module is where in its piece of host memory."""

    places: list[tuple[nn.Module, str]]
    memory: Tensor
    parameters: list[nn.Parameter]


class BlockStream(Generic[B]):
    """Blocks of one layout, at most `resident` of them on the device at a time.

    While they are away their parameters are views of host memory, pinned where the device is a
    CUDA one. What is computed is the same bit for bit.
    """

    def __init__(self, blocks: Sequence[B], device: torch.device, resident: int = RESIDENT):
        """
        Args:
            blocks: in the order they compute in, all with the same names, shapes and dtypes. Their
                tensors are moved, one block at a time.
        """
        assert resident >= 1, resident
        self.blocks, self.device = list(blocks), device
        layouts = {tuple(_layout(block)) for block in blocks}
        assert len(layouts) == 1, "blocks differ in their layout"
        (layout,) = layouts
        pinned = device.type == "cuda"
        self._homes = [_moved(block, layout, pinned) for block in blocks]
        size = len(self._homes[0].memory)
        count = min(resident, len(blocks))
        self._slots = [torch.empty(size, dtype=torch.uint8, device=device) for _ in range(count)]
        self._there = [[nn.Parameter(v, False) for v in _views(s, layout)] for s in self._slots]
        self._copying = torch.cuda.Stream(device) if pinned else None
        self._arrived = [torch.cuda.Event() for _ in self._slots] if pinned else []
        self._finished = [torch.cuda.Event() for _ in self._slots] if pinned else []

    @property
    def nbytes(self) -> int:
        """Bytes on the device."""
        return sum(slot.nbytes for slot in self._slots)

    def in_turn(self) -> Iterator[B]:
        """The blocks in order, each on the device until the next one is asked for."""
        ahead = len(self._slots) - 1
        sent = 0
        try:
            for i, block in enumerate(self.blocks):
                while sent <= min(i + ahead, len(self.blocks) - 1):
                    self._send(sent)
                    sent += 1
                self._await(i)
                yield block
                self._bring_home(i)
        finally:
            for i in range(sent):
                self._bring_home(i)

    def _send(self, i: int) -> None:
        slot = i % len(self._slots)
        memory = self._homes[i].memory
        if self._copying is None:
            self._slots[slot].copy_(memory)
        else:
            with torch.cuda.stream(self._copying):
                self._copying.wait_event(self._finished[slot])  # with the block that was there
                self._slots[slot].copy_(memory, non_blocking=True)
                self._arrived[slot].record(self._copying)
        _put(self._homes[i], self._there[slot])

    def _await(self, i: int) -> None:
        if self._copying is not None:
            torch.cuda.current_stream(self.device).wait_event(self._arrived[i % len(self._slots)])

    def _bring_home(self, i: int) -> None:
        """The block's parameters are those in host memory again; nothing is copied."""
        if self._copying is not None:
            self._finished[i % len(self._slots)].record(torch.cuda.current_stream(self.device))
        _put(self._homes[i], self._homes[i].parameters)


Layout = tuple[tuple[str, torch.Size, torch.dtype, int], ...]
"""Name, shape, dtype and first byte of every parameter of a block."""


def _layout(block: nn.Module) -> Iterator[tuple[str, torch.Size, torch.dtype, int]]:
    assert not list(block.buffers()), "blocks have parameters alone"
    start = 0
    for name, parameter in block.named_parameters():
        yield name, parameter.shape, parameter.dtype, start
        start += math.ceil(parameter.nbytes / ALIGNMENT) * ALIGNMENT


def _views(memory: Tensor, layout: Layout) -> list[Tensor]:
    return [
        memory[start : start + shape.numel() * dtype.itemsize].view(dtype).view(shape)
        for _, shape, dtype, start in layout
    ]


def _moved(block: nn.Module, layout: Layout, pinned: bool) -> _Home:
    """A block whose tensors now lie in one piece of host memory."""
    _, shape, dtype, start = layout[-1]
    size = start + shape.numel() * dtype.itemsize
    memory = torch.empty(size, dtype=torch.uint8, pin_memory=pinned, device="cpu")
    places, parameters = [], []
    for (name, *_), view in zip(layout, _views(memory, layout), strict=True):
        owner, _, last = name.rpartition(".")
        places.append((block.get_submodule(owner), last))
        view.copy_(block.get_parameter(name))
        parameters.append(nn.Parameter(view, requires_grad=False))
    home = _Home(places, memory, parameters)
    _put(home, parameters)
    return home


def _put(home: _Home, parameters: Sequence[nn.Parameter]) -> None:
    for (module, name), parameter in zip(home.places, parameters, strict=True):
        module.register_parameter(name, parameter)
