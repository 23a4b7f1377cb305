"""What identifies weights and prompts in a provenance. Knows files, nothing of what is in them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

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
