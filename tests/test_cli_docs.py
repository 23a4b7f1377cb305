"""docs/cli.md is what the commands say; completion prints and completes."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
import typer

from scalekv.cli.main import app
from scalekv.configs.options import SETTINGS
from scalekv.configs.settings import option_name
from scripts.cli_docs import PAGE, page

PROGRAM = [sys.executable, "-m", "scalekv"]


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PROGRAM, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


def test_the_page_is_up_to_date() -> None:
    hint = "docs/cli.md is not what the commands say: python -m scripts.cli_docs"
    assert PAGE.read_text(encoding="utf-8") == page(), hint


@pytest.mark.parametrize("columns", ["40", "200"])
def test_the_page_does_not_depend_on_the_terminal(columns: str) -> None:
    code = "from scripts.cli_docs import page; import sys; sys.stdout.write(page())"
    environment = {**os.environ, "COLUMNS": columns, "FORCE_COLOR": "1", "SCALEKV_MODEL": "x"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    assert done.stdout == page()


def test_every_setting_is_an_option_of_some_command() -> None:
    options = set(re.findall(r"`(--[a-z-]+)`", page()))
    assert {option_name(name) for name in SETTINGS} <= options


def test_every_command_has_examples() -> None:
    text = page()
    program = typer.main.get_command(app)
    for name in vars(program)["commands"]:
        section = text.split(f"\n## scalekv {name}\n")[1].split("\n## ")[0]
        if name != "models":
            assert "```sh\nscalekv" in section, name


@pytest.mark.parametrize(
    ("shell", "words"),
    [
        ("bash", "complete -o default -F _scalekv_completion scalekv"),
        ("zsh", "#compdef scalekv"),
        ("fish", "complete --command scalekv"),
    ],
)
def test_completion_prints(shell: str, words: str) -> None:
    done = run(_SCALEKV_COMPLETE=f"source_{shell}")
    assert (done.returncode, done.stderr) == (0, "")
    assert words in done.stdout


def test_completion_completes() -> None:
    def words(line: str, place: str) -> list[str]:
        done = run(_SCALEKV_COMPLETE="complete_bash", COMP_WORDS=line, COMP_CWORD=place)
        return done.stdout.split()

    assert words("scalekv do", "1") == ["download", "doctor"]
    found = words("scalekv generate --policy scale", "3")
    assert found == ["scalekv", "scalekv-anchored", "scalekv-released"]
    assert words("scalekv generate --model em", "3") == ["emoji"]
    assert words("scalekv generate --model infinity-2b --budget paper-1", "5") == ["paper-10"]
    assert words("scalekv budgets s", "2") == ["show"]
    assert "--fail-on-busy" in words("scalekv bench --f", "2")
