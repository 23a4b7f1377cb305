"""The script that kills batches sees what it looks for."""

from __future__ import annotations

import csv
import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from scripts.soak import problems, soak, write_prompts

ROOT = Path(__file__).parents[1]


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
    ("spoil", "phrases"),
    [
        (lose, ["1 pictures", "other names", "manifest"]),
        (change, ["other bytes", "another sum"]),
        (list_twice, ["one twice"]),
        (litter, ["left lying about: ['.scalekv-1.part']"]),
    ],
)
def test_problems(tmp_path: Path, spoil: Callable[[Path], None], phrases: list[str]) -> None:
    whole, killed = make(tmp_path / "whole"), make(tmp_path / "killed")
    assert problems(whole, killed, 2) == []
    spoil(killed)
    found = "\n".join(problems(whole, killed, 2))
    for words in phrases:
        assert words in found


def test_prompts_of_every_length(tmp_path: Path) -> None:
    write_prompts(tmp_path / "p.csv", 60)
    assert len((tmp_path / "p.csv").read_text().splitlines()) == 61


def test_a_short_soak(tmp_path: Path, encoded_before: Callable[..., None]) -> None:
    write_prompts(tmp_path / "p.csv", 2)
    with (tmp_path / "p.csv").open(newline="", encoding="utf-8") as file:
        encoded_before(*(row["prompt"] for row in csv.DictReader(file)))
    text = list(soak(tmp_path, pictures=2, kills=1, terms=1, seed=1))
    assert text[-1] == "0 lost, 0 doubled, all equal to the bit", text


def test_a_short_fuzz(tmp_path: Path) -> None:
    """In a process of its own: it forks, and this one has threads of torch by now."""
    command = [sys.executable, "-m", "scripts.fuzz", "--files", "96", "--seed", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "96 files: 0 hung" in done.stdout


def test_a_fault_is_seen(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from scripts import fuzz\n"
        "def program(arguments): return 1 if '/f8.' in ' '.join(arguments) else 0\n"
        "fuzz.program = program\n"
        f"print(*fuzz.fuzz(Path({str(tmp_path)!r}), 10, 0), sep=chr(10))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "exit code 1" in done.stdout
    assert "10 files: 1 hung over 2 s" in done.stdout
