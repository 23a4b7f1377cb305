"""Files come into memory before they are asked for, where that costs nobody anything."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import pytest

from scalekv.configs.models import model_named
from scalekv.infinity_patch.files import read_ahead as module
from scalekv.infinity_patch.files.read_ahead import read_ahead
from scalekv.infinity_patch.machine.machine import available_bytes

pytestmark = pytest.mark.skipif(
    not hasattr(os, "posix_fadvise"), reason="this system takes no advice on files"
)


def test_every_byte_of_the_model_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, int] = {}

    def advise(descriptor: int, start: int, length: int, advice: int) -> None:
        assert advice == os.POSIX_FADV_WILLNEED
        name = os.readlink(f"/proc/self/fd/{descriptor}")
        assert start == asked.get(name, 0)
        asked[name] = start + length

    monkeypatch.setattr(os, "posix_fadvise", advise)
    monkeypatch.setattr(module, "PIECE", mmap.PAGESIZE)
    thread = read_ahead(model_named("emoji"), None)
    assert thread is not None
    thread.join(30)
    assert any(name.endswith("transformer.safetensors") for name in asked)
    for name, end in asked.items():
        assert end >= Path(name).stat().st_size


def test_not_where_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    assert available_bytes() > 0
    monkeypatch.setattr(module, "available_bytes", lambda: 1 << 20)
    assert read_ahead(model_named("emoji"), None) is None


def test_missing_files_are_left_to_who_loads_them(tmp_path: Path) -> None:
    assert read_ahead(model_named("emoji"), tmp_path) is None
