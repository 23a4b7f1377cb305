"""What a disk has room for. Knows folders and bytes; nothing of models."""

from __future__ import annotations

import shutil
from pathlib import Path

from scalekv.kv.sizes import human_bytes

SPARE_BYTES = 64 << 20
"""What stays free on the disk besides the files themselves."""
SPARE_RULE = (
    f"the files and {human_bytes(SPARE_BYTES)} to spare must fit before anything is written"
)


def existing(folder: Path) -> Path:
    """The folder itself, or the nearest one above it that exists."""
    whole = folder.absolute()
    return next(path for path in (whole, *whole.parents) if path.exists())


def free_disk(folder: Path) -> int:
    """Bytes free on the disk of a folder, which need not exist yet."""
    return shutil.disk_usage(existing(folder)).free


def shortage(folder: Path, needed: int, spare: int = SPARE_BYTES) -> str:
    """What a folder's disk lacks room for, in words; "" if `needed` bytes fit besides `spare`."""
    free = free_disk(folder)
    if free >= needed + spare:
        return ""
    return f"{human_bytes(needed)} to write, {human_bytes(free)} free"
