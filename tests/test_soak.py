"""The script that kills batches sees what it looks for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from scripts.soak import problems, write_prompts


def make(folder: Path, names: tuple[str, ...] = ("a", "b")) -> Path:
    folder.mkdir()
    lines = []
    for name in names:
        data = name.encode()
        (folder / f"{name}.png").write_bytes(data)
        (folder / f"{name}.json").write_text("{}")
        sums = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        lines.append(json.dumps({"file": f"{name}.png", **sums}) + "\n")
    (folder / "manifest.jsonl").write_text("".join(lines))
    (folder / "report.json").write_text("{}")
    return folder


def lose(folder: Path) -> None:
    (folder / "a.png").unlink()


def change(folder: Path) -> None:
    (folder / "a.png").write_bytes(b"A")


def list_twice(folder: Path) -> None:
    manifest = folder / "manifest.jsonl"
    manifest.write_text(manifest.read_text() * 2)


def litter(folder: Path) -> None:
    (folder / ".scalekv-1.part").touch()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lose, ["1 pictures", "other names", "manifest"]),
        (change, ["other bytes", "another sum"]),
        (list_twice, ["one twice"]),
        (litter, ["left lying about: ['.scalekv-1.part']"]),
    ],
)
def test_problems(tmp_path: Path, spoil: Callable[[Path], None], said: list[str]) -> None:
    whole, killed = make(tmp_path / "whole"), make(tmp_path / "killed")
    assert problems(whole, killed, 2) == []
    spoil(killed)
    found = "\n".join(problems(whole, killed, 2))
    for words in said:
        assert words in found


def test_prompts_of_every_length(tmp_path: Path) -> None:
    write_prompts(tmp_path / "p.csv", 60)
    assert len((tmp_path / "p.csv").read_text().splitlines()) == 61
