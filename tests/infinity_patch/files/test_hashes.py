"""Hashes that tell files apart: what is hashed, and what is left out."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from scalekv.infinity_patch.files.hashes import (
    WHOLE_BYTES,
    prompts_sha256,
    quick_hash,
    weights_sha256,
)


def test_quick_hashes(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.write_bytes(b"abc")
    assert quick_hash(small) == "ba7816bf8f01cfea414140de5dae2223"  # SHA-256 of "abc", FIPS 180-4
    small.write_bytes(b"abcd")
    assert quick_hash(small) != "ba7816bf8f01cfea414140de5dae2223"
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(WHOLE_BYTES + 5)
    before = quick_hash(large)
    with large.open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"x")
    assert quick_hash(large) != before
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "tokenizer.json").write_text("{}")
    before = quick_hash(folder)
    (folder / "README.md").write_text("not read")
    assert quick_hash(folder) == before
    (folder / "model.safetensors").write_bytes(b"")
    assert quick_hash(folder) != before


def test_hashes_of_weights_and_prompts(tmp_path: Path) -> None:
    for name, content in (("b.safetensors", b"two"), ("a.safetensors", b"one"), ("x.json", b"no")):
        (tmp_path / name).write_bytes(content)
    assert weights_sha256(tmp_path / "b.safetensors") == hashlib.sha256(b"two").hexdigest()
    assert weights_sha256(tmp_path) == hashlib.sha256(b"onetwo").hexdigest()
    assert prompts_sha256(["a", "ü"]) == hashlib.sha256("a\nü\n".encode()).hexdigest()
    assert prompts_sha256(["a b"]) != prompts_sha256(["a", "b"])


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_shards_are_hashed_in_either_format(tmp_path: Path, kind: str) -> None:
    names = [f"model-0000{number}-of-00002.{kind}" for number in (1, 2)]
    for name in (*names, f"model.{kind}.index.json"):
        (tmp_path / name).write_text(name)
    quick, whole = quick_hash(tmp_path), weights_sha256(tmp_path)
    assert whole == hashlib.sha256("".join(names).encode()).hexdigest()
    (tmp_path / names[1]).write_text("another training")
    assert quick_hash(tmp_path) != quick
    assert weights_sha256(tmp_path) != whole


def test_of_two_formats_the_one_that_is_read_counts(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_text("read")
    before = quick_hash(tmp_path), weights_sha256(tmp_path)
    for name in ("pytorch_model.bin", "pytorch_model.bin.index.json"):
        (tmp_path / name).write_text("not read")
    assert (quick_hash(tmp_path), weights_sha256(tmp_path)) == before


def test_shards_of_any_name_are_hashed_by_their_index(tmp_path: Path) -> None:
    index = {"weight_map": {"a": "one.pth", "b": "two.pth"}}
    (tmp_path / "model.bin.index.json").write_text(json.dumps(index))
    for name in ("one.pth", "two.pth"):
        (tmp_path / name).write_text(name)
    quick = quick_hash(tmp_path)
    assert weights_sha256(tmp_path) == hashlib.sha256(b"one.pthtwo.pth").hexdigest()
    (tmp_path / "two.pth").write_text("another training")
    assert quick_hash(tmp_path) != quick
