"""Short words that differ where a model's files differ. Knows bytes alone; no torch.

A file of up to `WHOLE_BYTES` is hashed whole. Of a larger one its size and `BLOCKS` evenly spaced
blocks are, the first and the last among them: a tenth of a second for any size, and another
training, another dtype or another quantisation changes every block.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from scalekv.infinity_patch.files.cache_layout import Checksum
from scalekv.infinity_patch.files.hub import INDEX, TEXT_NEEDS, ModelPaths
from scalekv.kv.errors import UserError

WHOLE_BYTES = 1 << 28
BLOCKS = 64
BLOCK_BYTES = 1 << 20
DIGITS = 32  # of a SHA-256 in hexadecimal; enough to tell files apart


def model_hashes(paths: ModelPaths) -> dict[str, str]:
    """A word for each part of a model.

    Raises:
        OSError: a file cannot be read.
    """
    return {
        "transformer": quick_hash(paths.transformer),
        "vae": quick_hash(paths.vae),
        "text_encoder": quick_hash(paths.text_encoder),
    }


def quick_hash(path: Path) -> str:
    """A word for a file, or for a folder of weights.

    Raises:
        OSError: a file cannot be read.
    """
    if not path.is_dir():
        return _file(path)
    names = sorted(
        file.name
        for file in path.iterdir()
        if file.name in TEXT_NEEDS or file.name.endswith((".safetensors", INDEX))
    )
    hasher = hashlib.sha256()
    for name in names:
        hasher.update(f"{name} {_file(path / name)}\n".encode())
    return hasher.hexdigest()[:DIGITS]


def _file(path: Path) -> str:
    facts = path.stat()
    return _hashed(path, facts.st_size, facts.st_mtime_ns)


@cache
def _hashed(path: Path, size: int, changed: int) -> str:
    hasher = hashlib.sha256()
    with path.open("rb") as file:
        if size <= WHOLE_BYTES:
            while block := file.read(BLOCK_BYTES):
                hasher.update(block)
        else:
            hasher.update(str(size).encode())
            for number in range(BLOCKS):
                file.seek(number * (size - BLOCK_BYTES) // (BLOCKS - 1))
                hasher.update(file.read(BLOCK_BYTES))
    return hasher.hexdigest()[:DIGITS]


WEIGHTS = ".safetensors"


def weights_sha256(path: Path) -> str:
    """SHA-256 of a weights file, as `sha256sum` prints it; of a folder's shards one after the
    other in the order of their names, as `cat FOLDER/*.safetensors | sha256sum` does."""
    digest = hashlib.sha256()
    files = sorted(path.glob(f"*{WEIGHTS}")) if path.is_dir() else [path]
    assert files, f"no {WEIGHTS} file in {path}"
    block = bytearray(2**20)
    for file in files:
        with file.open("rb", buffering=0) as stream:
            while size := stream.readinto(block):
                digest.update(memoryview(block)[:size])
    return digest.hexdigest()


def prompts_sha256(prompts: Iterable[str]) -> str:
    """SHA-256 of prompts in UTF-8, each with a newline at its end."""
    return hashlib.sha256("".join(f"{prompt}\n" for prompt in prompts).encode()).hexdigest()


NAME = "SHA256SUMS"


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
