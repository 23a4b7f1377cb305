"""Files in the layout of the hub's cache: contents under their hash, names that point to them.

Knows hashes, links and names; nothing of models or of the network.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

PARTIALS = "scalekv-incomplete"
"""Folder beside a repository's contents for what has not arrived whole."""

_BLOCK = 1 << 20


class Hasher(Protocol):
    """What of hashlib's objects is used."""

    def update(self, data: bytes, /) -> None: ...
    def hexdigest(self) -> str: ...


@dataclass(frozen=True)
class Checksum:
    """The hash the hub states: SHA-256 of large files (LFS), git's SHA-1 of others.

    The digest is also the name of the content in the cache.
    """

    digest: str

    @property
    def kind(self) -> str:
        """What people call it."""
        return "SHA-256" if len(self.digest) == 64 else "git hash"

    def begin(self, size: int) -> Hasher:
        """A hasher for a file of that size in bytes."""
        if len(self.digest) == 64:
            return hashlib.sha256()
        return hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)

    def fits(self, path: Path, size: int) -> bool:
        """Whether a file has this size and hash; reads all of it."""
        if path.stat().st_size != size:
            return False
        hasher = self.begin(size)
        read_into(hasher, path)
        return hasher.hexdigest() == self.digest

    @staticmethod
    def of_content(path: Path) -> Checksum:
        """The SHA-256 of a file; reads all of it."""
        hasher = hashlib.sha256()
        read_into(hasher, path)
        return Checksum(hasher.hexdigest())

    @staticmethod
    def of_cached(pointer: Path) -> Checksum | None:
        """The hash a file in the cache is kept under; None where links cannot be made."""
        name = pointer.resolve().name
        hashed = re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", name)
        return Checksum(name) if hashed and pointer.is_symlink() else None


def read_into(hasher: Hasher, path: Path) -> None:
    """Feeds a file to a hasher."""
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            hasher.update(block)


def partial_file(repo: Path, name: str, digest: str) -> Path:
    """Where a file of a repository's folder arrives; one of another version has another name."""
    return repo / PARTIALS / f"{name.replace('/', '--')}.{digest[:16]}"


def point_to(blob: Path, pointer: Path) -> None:
    """Names a content; where links cannot be made the content itself moves to the name."""
    pointer.parent.mkdir(parents=True, exist_ok=True)
    pointer.unlink(missing_ok=True)
    try:
        pointer.symlink_to(os.path.relpath(blob, pointer.parent))
    except OSError:
        os.replace(blob, pointer)


def name_in_cache(repo: Path, revision: str, commit: str) -> None:
    """Makes a commit what a branch or tag means, now that all files of it are there."""
    if revision == commit:
        return
    ref = repo / "refs" / revision
    ref.parent.mkdir(parents=True, exist_ok=True)
    hidden = ref.with_name(f".{ref.name}.{os.getpid()}")
    hidden.write_text(commit)
    os.replace(hidden, ref)
