"""Has the system read a model's files into memory while the program imports its libraries.

Knows files and pages; nothing of what is in them. Imports no torch.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path

from scalekv.configs.models import ModelPreset
from scalekv.infinity_patch.files.hub import model_files
from scalekv.infinity_patch.files.inventory import every_file
from scalekv.infinity_patch.machine.machine import available_bytes
from scalekv.kv.errors import UserError

PIECE = 64 << 20
"""Bytes that are asked for at a time."""


def read_ahead(preset: ModelPreset, weights_dir: Path | None) -> threading.Thread | None:
    """Begins to bring a model's files into the page cache, in a thread that holds nobody up.

    Does nothing where the system cannot, where files are missing (who loads them says so), or where
    they would take more than half of the memory that is available.

    Returns:
        The thread, which ends by itself.
    """
    if not hasattr(os, "posix_fadvise"):
        return None
    try:
        files = every_file(model_files(preset, weights_dir))
    except UserError:
        return None
    if sum(file.stat().st_size for file in files) > available_bytes() // 2:
        return None
    thread = threading.Thread(target=_ask_for, args=(files,), name="read-ahead", daemon=True)
    thread.start()
    return thread


def _ask_for(files: Sequence[Path]) -> None:
    for file in files:
        try:
            descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return
        try:
            for start in range(0, os.fstat(descriptor).st_size, PIECE):
                os.posix_fadvise(descriptor, start, PIECE, os.POSIX_FADV_WILLNEED)
        finally:
            os.close(descriptor)
