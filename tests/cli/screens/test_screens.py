"""What people see at three widths is what was looked at: help, a first picture, plans, tables."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.screens.take import COMMANDS, SHOWN, WIDTHS
from tests.cli.screens.terminal import masked

ROOT = Path(__file__).parents[3]
HINT = "look at what changed, then: python -m tests.cli.screens.take"


@pytest.mark.slow
def test_screens_are_as_they_were_looked_at() -> None:
    command = [sys.executable, "-m", "tests.cli.screens.take", "--print"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    screens = json.loads(done.stdout)
    kept = {
        str(path.relative_to(SHOWN)): path.read_text(encoding="utf-8")
        for path in SHOWN.rglob("*.txt")
    }
    assert screens.keys() == kept.keys(), HINT
    for name, text in screens.items():
        assert text == kept[name], f"{name}: {HINT}"


@pytest.mark.parametrize("columns", WIDTHS)
@pytest.mark.parametrize("name", COMMANDS)
def test_no_word_is_cut(name: str, columns: int) -> None:
    """A terminal that breaks a line leaves a full row, and in it what may be half a word."""
    text = (SHOWN / str(columns) / f"{name}.txt").read_text(encoding="utf-8")
    widest = (SHOWN / str(max(WIDTHS)) / f"{name}.txt").read_text(encoding="utf-8")
    words = set(widest.split()) | {"\\"}
    rows = text.splitlines()[1:]
    assert all(len(row) <= columns for row in rows)
    full = [row for row in rows if len(row) == columns]
    for row in full:
        assert row.split()[-1] in words, row
    assert not re.search(r"[\w,]…(\s|$)", text)


def test_only_the_clock_is_masked() -> None:
    assert masked("2 made in 16 s at 2.8/s") == "2 made in # s at #/s"
    assert masked("picture 1/1  0.5 s  held 848.0 KiB") == "picture 1/1  0.5 s  held 848.0 KiB"
