"""How failures end a command: exit codes, and the words people see.

Knows nothing of what failed. Only the boundary in `scalekv.cli.main` shows failures.
"""

from __future__ import annotations

import os
import traceback

from rich.console import Console
from rich.text import Text

from scalekv.kv.errors import UserError

OK = 0
FAILED = 1
"""Something broke that the user could not have avoided: a bug, memory, a driver."""
REFUSED = 2
"""What was asked for cannot be done as it was asked."""
INTERRUPTED = 130
"""128 + SIGINT, as shells have it."""
PIPE_CLOSED = 141
"""128 + SIGPIPE: whoever read stdout went away."""

DEBUG_VARIABLE = "SCALEKV_DEBUG"


_OUT_OF_MEMORY = ("MemoryError", "OutOfMemoryError")  # by name: torch is not imported here


class Interrupted(Exception):
    """The user pressed Ctrl-C; says what they still have."""

    def __init__(self, kept: int, where: str) -> None:
        pictures = "1 picture" if kept == 1 else f"{kept} pictures"
        super().__init__(f"interrupted; {pictures} kept" + (f" in {where}" if kept else ""))


class PipeClosed(Exception):
    """Nobody reads stdout any more; everything else was done."""


def debugging() -> bool:
    """Whether unexpected failures come with their traceback."""
    return os.environ.get(DEBUG_VARIABLE, "") not in ("", "0")


def turn_on_debugging() -> None:
    """From now on, unexpected failures come with their traceback."""
    os.environ[DEBUG_VARIABLE] = "1"


def stderr() -> Console:
    """Where everything but results goes. rich heeds NO_COLOR, TERM and COLUMNS."""
    return Console(stderr=True, highlight=False)


def show_refusal(error: UserError, console: Console) -> None:
    """What, where, rule and fix, one under the other."""
    text = Text("error: ", style="bold red")
    text.append(error.what, style="bold")
    for label, detail in (("where", error.where), ("rule", error.rule), ("fix", error.fix)):
        if detail:
            text.append(f"\n  {label + ':':6} ", style="dim")
            text.append(detail, style="green" if label == "fix" else "")
    console.print(text, soft_wrap=True)


def show_failure(error: BaseException, console: Console) -> None:
    """One line and a hint; with the traceback where it was asked for."""
    if debugging():
        lines = "".join(traceback.format_exception(error))
        console.print(Text(lines.rstrip()), soft_wrap=True)
    first = (str(error).strip().splitlines() or [""])[0]
    text = Text("failed: ", style="bold red")
    text.append(type(error).__name__ + (f": {first}" if first else ""), style="bold")
    if type(error).__name__ in _OUT_OF_MEMORY:
        text.append("\n  memory ran out: a smaller --budget or --pixels needs less", style="dim")
    elif not debugging():
        text.append(f"\n  --verbose (or {DEBUG_VARIABLE}=1) shows where it happened", style="dim")
    console.print(text, soft_wrap=True)
