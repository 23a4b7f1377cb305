"""Screens of the program at several widths, as files to compare with.

python -m tests.cli.screens.take            # writes them
python -m tests.cli.screens.take --print    # prints them as one JSON object

The heavy half is a stand-in, whose pictures and figures are always the same; everything else is
the program itself in a terminal.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from PIL import Image

import scalekv.infinity_patch.likeness  # noqa: F401 - see `take`
from scalekv.cli.main import main as program
from tests.cli.conftest import StandIn, put_in
from tests.cli.screens.terminal import screen

SHOWN = Path(__file__).parent / "shown"
WIDTHS = (60, 80, 120)
COMMANDS = {
    "help": ("--help",),
    "generate-help": ("generate", "--help"),
    "first-picture": ("generate", "a red apple"),
    "plan": ("plan", "--gpu-memory", "24GB"),
    "compare": ("compare", "a red apple", "an owl", "--budget", "20%,10%"),
    "models": ("models",),
    "batch": ("batch", "prompts.txt"),
    "table": ("generate", "a red apple", "--memory-report", "table"),
    "refusal": ("generate", "-a fox"),
}


class _Device:
    """The processor, as torch writes it."""

    type = "cpu"

    def __str__(self) -> str:
        return self.type


@dataclass
class _Painter(StandIn):
    """A stand-in whose pictures and caches depend on the budget."""

    def load(self, *arguments: Any) -> Any:
        pipeline = super().load(*arguments)
        pipeline.device = _Device()
        return pipeline

    def _picture(self, pipeline: Any, settled: Any, index: int) -> Any:
        picture = super()._picture(pipeline, settled, index)
        lost, share = {"full": (1, 1.0), "20%": (7, 0.2), "10%": (13, 0.1)}[
            str(settled.request.budget)
        ]
        picture.image = (
            Image.linear_gradient("L").reduce(4).point(lambda shade: shade - shade % lost)
        )
        held = int(picture.cache["full_bytes"] * share)
        picture.cache |= {"held_peak_bytes": held, "ratio_history": share}
        return picture


def shown(name: str, columns: int, folder: Path) -> str:
    """A command and what a terminal shows of it; `folder` is an empty one."""
    arguments = COMMANDS[name]
    typed = " ".join(f'"{word}"' if " " in word else word for word in arguments)
    text = screen(partial(_run, arguments, folder), columns)
    return f"$ scalekv {typed}\n{text}"


def _run(arguments: tuple[str, ...], folder: Path) -> int:
    """The program with a stand-in, in a process that is its alone."""
    for name in [*os.environ]:
        if name.startswith("SCALEKV_") or name in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR"):
            del os.environ[name]
    os.environ |= {"TERM": "xterm-256color", "HF_HOME": str(folder / "hub")}
    os.environ["XDG_CONFIG_HOME"] = os.environ["HOME"] = str(folder)
    (folder / "work").mkdir()
    os.chdir(folder / "work")
    Path("prompts.txt").write_text("an owl\na red apple\n")
    put_in(_Painter(), pytest.MonkeyPatch(), folder)
    code = program(arguments)
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def take() -> dict[str, str]:
    """Every screen by the name of its file: "80/plan.txt"."""
    with redirect_stdout(None):  # imports and makes the commands once, and not in every terminal
        program(("plan", "--json"))
    screens = {}
    for columns in WIDTHS:
        for name in COMMANDS:
            with TemporaryDirectory() as folder:
                screens[f"{columns}/{name}.txt"] = shown(name, columns, Path(folder))
    return screens


def main() -> None:
    """Writes the files anew, or prints what they would be."""
    screens = take()
    if "--print" in sys.argv[1:]:
        print(json.dumps(screens))
        return
    shutil.rmtree(SHOWN, ignore_errors=True)
    for name, text in screens.items():
        path = SHOWN / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    print(f"{len(screens)} screens in {SHOWN}")


if __name__ == "__main__":
    main()
