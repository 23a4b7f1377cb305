"""What the README shows works as shown."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image

README = Path(__file__).parents[1] / "README.md"


def blocks(language: str) -> list[str]:
    """The fenced blocks of a language, in order."""
    text = README.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.M | re.S)


def test_library_use_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code = blocks("python")[0]
    assert len([line for line in code.splitlines() if line.strip()]) <= 8
    scope: dict[str, object] = {}
    exec(compile(code, str(README), "exec"), scope)
    with Image.open(tmp_path / "apple.png") as picture:
        assert picture.size == (128, 128)


def test_the_first_two_shell_blocks_are_the_set_up_commands() -> None:
    use, test = blocks("sh")[:2]
    for command in (use, test):
        assert command.count("\n") == 1
        assert "-m venv" in command
        assert "-c constraints.txt" in command
    assert "scalekv generate" in use
    assert "pytest" in test


def test_linked_files_exist() -> None:
    text = README.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (README.parent / target).exists(), target
