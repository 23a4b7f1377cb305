"""Hashes of files: the hub's, the sums beside the built-in model, and quick ones of large weights.

Knows bytes and names of files; no torch.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Protocol

from scalekv.configs.whole_files import replace_text
from scalekv.infinity_patch.files.hub import BIN_INDEX, INDEX, TEXT_NEEDS, ModelPaths, shards_of
from scalekv.kv.errors import UserError

BLOCK_BYTES = 1 << 20
WHOLE_BYTES = 1 << 28
"""Up to this size a quick hash is of a whole file; of a larger one its size and `BLOCKS` evenly
spaced blocks are hashed, the first and the last among them: a tenth of a second for any size, and
another training, another dtype or another quantisation changes every block."""
BLOCKS = 64
DIGITS = 32  # of a SHA-256 in hexadecimal; enough to tell files apart
SUMS = "SHA256SUMS"
"""The name of a list of files with their SHA-256, as `sha256sum` writes it."""


class Hasher(Protocol):
    """The part of hashlib's interface that is used."""

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
        """The kind of hash, for messages."""
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
    def of_cached(pointer: Path) -> Checksum | None:
        """The hash a file in the cache is kept under; None where links cannot be made."""
        name = pointer.resolve().name
        hashed = re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", name)
        return Checksum(name) if hashed and pointer.is_symlink() else None


def read_into(hasher: Hasher, *paths: Path) -> None:
    """Feeds files to a hasher, one after the other."""
    for path in paths:
        with path.open("rb", buffering=0) as file:
            while block := file.read(BLOCK_BYTES):
                hasher.update(block)


def sha256_of(*paths: Path) -> str:
    """SHA-256 of a file, as `sha256sum` prints it; of several as of one that holds them all."""
    hasher = hashlib.sha256()
    read_into(hasher, *paths)
    return hasher.hexdigest()


def weights_sha256(path: Path) -> str:
    """SHA-256 of a weights file; of a folder's files of weights in the order of their names, as
    `cat FOLDER/*.safetensors | sha256sum` prints it."""
    return sha256_of(*(weight_files(path) if path.is_dir() else [path]))


def prompts_sha256(prompts: Iterable[str]) -> str:
    """SHA-256 of prompts in UTF-8, each with a newline at its end."""
    return hashlib.sha256("".join(f"{prompt}\n" for prompt in prompts).encode()).hexdigest()


def weight_files(folder: Path) -> list[Path]:
    """The files of weights that a folder is read from: its safetensors, or else PyTorch's."""
    safe = sorted(folder.glob("*.safetensors"))
    if safe:
        return safe
    listed = {name for i in folder.glob("*" + BIN_INDEX) for name in shards_of(i) or ()}
    return sorted(folder / name for name in listed) or sorted(folder.glob("*.bin"))


def model_hashes(paths: ModelPaths) -> dict[str, str]:
    """A quick hash of each part of a model.

    Raises:
        OSError: a file cannot be read.
    """
    return {
        "transformer": quick_hash(paths.transformer),
        "vae": quick_hash(paths.vae),
        "text_encoder": quick_hash(paths.text_encoder),
    }


def quick_hash(path: Path) -> str:
    """A short hash of a file or of a folder of weights.

    Raises:
        OSError: a file cannot be read.
    """
    if not path.is_dir():
        return _of_file(path)
    weights = weight_files(path)
    index = INDEX if weights and weights[0].suffix == ".safetensors" else BIN_INDEX
    others = [f for f in path.iterdir() if f.name in TEXT_NEEDS or f.name.endswith(index)]
    hasher = hashlib.sha256()
    for file in sorted({*weights, *others}):
        hasher.update(f"{file.name} {_of_file(file)}\n".encode())
    return hasher.hexdigest()[:DIGITS]


def _of_file(path: Path) -> str:
    facts = path.stat()
    return _quick(path, facts.st_size, facts.st_mtime_ns)


@cache
def _quick(path: Path, size: int, changed: int) -> str:
    if size <= WHOLE_BYTES:
        return sha256_of(path)[:DIGITS]
    hasher = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for number in range(BLOCKS):
            file.seek(number * (size - BLOCK_BYTES) // (BLOCKS - 1))
            hasher.update(file.read(BLOCK_BYTES))
    return hasher.hexdigest()[:DIGITS]


def write_sums(folder: Path, names: Iterable[str]) -> None:
    """Lists files of a folder, given by their paths in it, with their sums."""
    lines = [f"{sha256_of(folder / name)}  {name}\n" for name in names]
    replace_text(folder / SUMS, "".join(lines))


def read_sums(folder: Path) -> dict[str, Checksum]:
    """Sums by path in the folder; {} where it has no list.

    Raises:
        UserError: a list that is not one.
    """
    file = folder / SUMS
    if not file.is_file():
        return {}
    sums = {}
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        digest, _, name = line.partition("  ")
        if len(digest) != 64 or not name:
            raise UserError(
                f"{SUMS} is damaged",
                where=str(file),
                rule="every line is a SHA-256 in hexadecimal, two spaces and a path",
                fix="install scalekv again if it came with it, else write the list anew",
            )
        sums[name] = Checksum(digest)
    return sums
