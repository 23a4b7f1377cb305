"""Short words that differ where a model's files differ. Knows bytes alone; no torch.

A file of up to `WHOLE_BYTES` is hashed whole. Of a larger one its size and `BLOCKS` evenly spaced
blocks are, the first and the last among them: a tenth of a second for any size, and another
training, another dtype or another quantisation changes every block.
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

from scalekv.infinity_patch.hub import INDEX, TEXT_NEEDS, ModelPaths

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
