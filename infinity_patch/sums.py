"""SHA-256 sums of files beside them, in the form that `sha256sum -c SHA256SUMS` reads. No torch."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from scalekv.infinity_patch.hub_files import Checksum
from scalekv.kv.errors import UserError

NAME = "SHA256SUMS"
"""What the list is called."""


def write_sums(folder: Path, names: Iterable[str]) -> None:
    """Lists files of a folder, given by their paths in it, with their sums."""
    lines = [f"{Checksum.of_content(folder / name).digest}  {name}\n" for name in names]
    hidden = folder / f".{NAME}.{os.getpid()}"
    hidden.write_text("".join(lines), encoding="utf-8")
    os.replace(hidden, folder / NAME)


def read_sums(folder: Path) -> dict[str, Checksum]:
    """Sums by path in the folder; {} where it has no list.

    Raises:
        UserError: a list that is not one.
    """
    file = folder / NAME
    if not file.is_file():
        return {}
    sums = {}
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        digest, _, name = line.partition("  ")
        if len(digest) != 64 or not name:
            raise UserError(
                f"{NAME} is damaged",
                where=str(file),
                rule="every line is a SHA-256 in hexadecimal, two spaces and a path",
                fix="install scalekv again if it came with it, else write the list anew",
            )
        sums[name] = Checksum(digest)
    return sums
