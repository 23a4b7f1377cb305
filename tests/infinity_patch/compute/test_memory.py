"""Freed memory goes back to the system when that is asked for, and always once scales are large."""

from __future__ import annotations

import ctypes
import sys

import pytest
import torch

from scalekv.infinity_patch import generate, load
from scalekv.infinity_patch.compute import memory as heap
from scalekv.infinity_patch.machine.peaks import process_bytes

glibc = pytest.mark.skipif(
    not sys.platform.startswith("linux") or not hasattr(ctypes.CDLL(None), "malloc_trim"),
    reason="only glibc can be asked to give memory back",
)


@glibc
def test_freed_memory_goes_back() -> None:
    heap.give_back()
    kept = [torch.ones(1 << 18) for _ in range(128)]  # 1 MB each, from the heap
    last = torch.ones(64)  # above them, so that the heap does not shrink by itself
    full = process_bytes("VmRSS")
    del kept
    heap.give_back()
    assert full - process_bytes("VmRSS") > 64 << 20
    assert last.sum() == 64


def test_small_scales_do_not_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[None] = []
    monkeypatch.setattr(heap, "give_back", lambda: asked.append(None))
    pipeline = load("emoji", device="cpu")
    next(generate(pipeline, "a red apple"))
    assert asked == []
    monkeypatch.setattr(heap, "WORTHWHILE", 1)
    next(generate(pipeline, "a red apple"))
    assert len(asked) == 7  # scales
