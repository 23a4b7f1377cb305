"""How failures end a command: exit codes, the words people see, and the line programs read.

Knows nothing of what failed. Only the boundary in `scalekv.cli.main` shows failures.
"""

from __future__ import annotations

import errno
import json
import os
import sys
import traceback
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from scalekv.cli.console.layout import LEAST
from scalekv.cli.console.terminal import Terminal
from scalekv.configs.option import DEBUG_VARIABLE
from scalekv.kv.errors import UserError

OK = 0
FAILED = 1
"""Something broke that the user could not have avoided: a bug, memory, a driver."""
REFUSED = 2
"""What was asked for cannot be done as it was asked."""
SIGNALLED = 128
"""With the number of a signal that asked for an end, as shells have it."""
INTERRUPTED = SIGNALLED + 2
"""Ctrl-C."""
TERMINATED = SIGNALLED + 15
"""SIGTERM: docker stop, systemd, Slurm."""
HUNG_UP = SIGNALLED + 1
"""SIGHUP: the terminal closed."""

KINDS = {
    "usage": "an option or argument that the command does not have, or not so",
    "refused": "what was asked for cannot be done as it was asked",
    "weights-missing": "a file of the model is not on this machine",
    "weights-damaged": "a file of the model is not whole, or belongs to another model",
    "download-refused": "the hub does not have it, does not give it, or there is no room for it",
    "not-repeatable": "a picture cannot be made again here: something it needs is not the same",
    "busy": "the machine is too busy to measure on",
    "problems": "a check found problems; they are listed in the result",
    "different": "a picture that was made again differs from the original",
    "pictures-failed": "some pictures of a batch failed; the others are there",
    "out-of-memory": "memory ran out, of the machine or of the device",
    "failed": "something broke that nobody could have avoided: a bug, a driver",
    "interrupted": "Ctrl-C, or another signal that asks for an end: SIGTERM, SIGHUP",
}
"""What a program may find as `kind`, and what it means; the words stay as they are."""

_IMPOSSIBLE_PATHS = (errno.ENAMETOOLONG, errno.ELOOP)  # that they are not there is not said so
_OUT_OF_MEMORY = ("MemoryError", "OutOfMemoryError")  # by name: torch is not imported here


class Unsuccessful(Exception):
    """The command did what it was asked and found that something is not right: exit code 1."""

    def __init__(self, what: str, kind: str) -> None:
        super().__init__(what)
        self.kind = kind


class Interrupted(Exception):
    """The user pressed Ctrl-C, or something sent SIGTERM; says what they still have."""

    def __init__(self, kept: int | None = None, where: str = "") -> None:
        pictures = "1 picture" if kept == 1 else f"{kept} pictures"
        suffix = "" if kept is None else f"; {pictures} kept" + (f" in {where}" if kept else "")
        super().__init__(f"interrupted{suffix}")


def json_wanted(arguments: Sequence[str]) -> bool:
    """Whether a command line asks for JSON, so that its failure is for a program too."""
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return "--json" in options


def as_refusal(error: Exception) -> Exception:
    """The failure itself, or what it comes to where the system cannot even look for a path."""
    if isinstance(error, OSError) and error.errno in _IMPOSSIBLE_PATHS and error.filename:
        return UserError(
            f"cannot look for a path: {error.strerror}",
            where=os.fsdecode(error.filename),
            rule="names and paths as long as this system has them, and links that lead somewhere",
            fix="give another path",
        )
    return error


def kind_of(error: BaseException) -> str:
    """The word of `KINDS` for a failure."""
    if isinstance(error, UserError | Unsuccessful):
        return error.kind
    if isinstance(error, Interrupted):
        return "interrupted"
    return "out-of-memory" if type(error).__name__ in _OUT_OF_MEMORY else "failed"


def show_for_programs(kind: str, code: int, what: str, **details: str) -> None:
    """A failure as one line of JSON on stderr, the last one there."""
    facts = {"kind": kind, "code": code, "what": what, **{k: v for k, v in details.items() if v}}
    print(json.dumps({"error": facts}), file=sys.stderr, flush=True)


def debugging() -> bool:
    """Whether unexpected failures come with their traceback."""
    return os.environ.get(DEBUG_VARIABLE, "") not in ("", "0")


def turn_on_debugging() -> None:
    """From now on, unexpected failures come with their traceback."""
    os.environ[DEBUG_VARIABLE] = "1"


def stderr() -> Console:
    """Where everything but results goes. rich heeds NO_COLOR, TERM and COLUMNS."""
    return Terminal(stderr=True, highlight=False)


def show_refusal(error: UserError, console: Console) -> None:
    """What, where, rule and fix, one under the other. A fix is in one piece, to be copied."""
    text = Text("error: ", style="bold red")
    text.append(_below(error.what, len(text), console), style="bold")
    for label, detail in (("where", error.where), ("rule", error.rule), ("fix", error.fix)):
        if detail:
            start = f"  {label + ':':6} "
            text.append(f"\n{start}", style="dim")
            if label == "fix":
                text.append(detail, style="green")
            else:
                text.append(_below(detail, len(start), console))
    console.print(text, soft_wrap=True)


def _below(words: str, indent: int, console: Console) -> str:
    """The words, on a terminal in lines that fit it: all but the first with an indent."""
    if not console.is_terminal:
        return words
    lines = Text(words).wrap(console, max(console.width - indent, LEAST))
    return f"\n{' ' * indent}".join(line.plain.rstrip() for line in lines)


def show_failure(error: BaseException, console: Console) -> None:
    """One line and a hint."""
    text = Text("failed: ", style="bold red")
    text.append(one_line(error), style="bold")
    if kind_of(error) == "out-of-memory":
        text.append("\n  memory ran out: a smaller --budget or --pixels needs less", style="dim")
    elif not debugging():
        text.append(f"\n  --verbose (or {DEBUG_VARIABLE}=1) shows where it happened", style="dim")
    console.print(text, soft_wrap=True)


def one_line(error: BaseException) -> str:
    """What a failure is called, and the first line of what it says."""
    first = (str(error).strip().splitlines() or [""])[0]
    return type(error).__name__ + (f": {first}" if first else "")


def show_trace(error: BaseException, console: Console) -> None:
    """Where a failure happened."""
    console.print(Text("".join(traceback.format_exception(error)).rstrip()), soft_wrap=True)
