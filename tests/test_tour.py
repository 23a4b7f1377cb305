"""docs/tour.md, run word for word: every command by a shell, every line of output compared."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from scalekv.infinity_patch.files.hub import BUILT_IN

PAGE = Path(__file__).parents[1] / "docs" / "tour.md"
WEIGHTS = BUILT_IN / "emoji" / "transformer.safetensors"
MINUTES = 10


def session() -> list[tuple[str, str]]:
    """Every command of the page with what stands below it."""
    blocks = re.findall(r"^```console\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    steps = re.split(r"^\$ ", "".join(blocks), flags=re.M)[1:]
    found = []
    for step in steps:
        lines = step.splitlines(keepends=True)
        length = next((n for n, line in enumerate(lines[1:], 1) if not line.startswith("> ")), None)
        command = [line.removeprefix("> ") for line in lines[:length]]
        found.append(("".join(command), "".join(lines[length:]) if length else ""))
    return found


def test_the_page_shows_what_it_is_for() -> None:
    commands = "".join(command for command, _ in session())
    for word in ("generate -", "--name", ".jpg", "--wildcards", '["5%"', "--seed 1,7,9", "inspect"):
        assert word in commands, word
    assert "--format json | jq" in commands


@pytest.mark.skipif(not WEIGHTS.exists(), reason="the built-in model's weights are not here")
@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
@pytest.mark.skipif(shutil.which("jq") is None, reason="jq is not installed")
def test_the_session(tmp_path: Path, encoded_before: Callable[..., None]) -> None:
    encoded_before("an owl", "a red apple", "a blue owl", "a red fox")
    programs, home = tmp_path / "bin", tmp_path / "home"
    programs.mkdir()
    home.mkdir()
    program = programs / "scalekv"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m scalekv "$@"\n')
    program.chmod(0o755)
    environment = os.environ | {"PATH": f"{programs}:{os.environ['PATH']}", "LC_ALL": "C.UTF-8"}
    for command, expected in session():
        done = subprocess.run(
            ["bash", "-e", "-o", "pipefail", "-c", command],
            cwd=home,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=MINUTES * 60,
        )
        assert (done.stdout, done.stderr) == (expected, ""), command
        assert done.returncode == 0, command
