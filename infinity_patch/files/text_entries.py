"""What is in a folder of text features, by names and sizes: for people who wonder what it takes.

No torch.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

SUFFIX = ".safetensors"
_ENTRY = re.compile(r"[0-9a-f]{64}" + re.escape(SUFFIX))


@dataclass(frozen=True)
class TextEntries:
    """How many prompts a folder has features of, and the bytes of their files."""

    count: int
    nbytes: int


def text_entries(folder: Path) -> TextEntries:
    """Counts what a text cache's folder holds; what is no entry is left out. Empty where there is
    no folder."""
    sizes = []
    for path in folder.glob("??/*" + SUFFIX):
        if _ENTRY.fullmatch(path.name):
            try:
                sizes.append(path.stat().st_size)
            except OSError:  # gone meanwhile
                continue
    return TextEntries(len(sizes), sum(sizes))
