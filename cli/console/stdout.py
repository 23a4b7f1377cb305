"""Results on stdout, where a reader may leave or a disk be full: that costs no picture.

Knows stdout alone; nothing of what is said.
"""

from __future__ import annotations

import json
import os
import sys

from scalekv.cli.console.errors import PipeClosed, Unsuccessful


class Stdout:
    """Says results at once, and remembers instead of failing when they cannot be said."""

    def __init__(self) -> None:
        self._lost: OSError | None = None

    def say(self, text: str) -> None:
        """Writes whole lines."""
        if self._lost is not None:
            return
        try:
            sys.stdout.write(text)
            sys.stdout.flush()
        except OSError as error:
            self._lost = error
            silence_stdout()

    def check(self) -> None:
        """To be called when everything is done.

        Raises:
            PipeClosed: nobody read stdout any more.
            Unsuccessful: it could not be written to, for another reason.
        """
        if isinstance(self._lost, BrokenPipeError):
            raise PipeClosed
        if self._lost is not None:
            raise Unsuccessful(f"stdout could not be written: {self._lost.strerror}", "failed")


def say(text: str) -> None:
    """Writes a command's only result.

    Raises:
        PipeClosed, Unsuccessful: as `Stdout.check` does.
    """
    stdout = Stdout()
    stdout.say(text)
    stdout.check()


def show(*renderables: object, soft_wrap: bool = False) -> None:
    """Writes tables and coloured text as stdout shows them: without colour where it is no terminal.

    Raises:
        PipeClosed, Unsuccessful: as `Stdout.check` does.
    """
    from rich.console import Console

    console = Console(highlight=False)
    with console.capture() as capture:
        for renderable in renderables:
            console.print(renderable, soft_wrap=soft_wrap, markup=False)
    say(capture.get())


def silence_stdout() -> None:
    """Lets what is still buffered for a closed pipe go nowhere, at the interpreter's end too."""
    try:
        descriptor = sys.stdout.fileno()
    except (OSError, ValueError):
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


def to_json(value: object) -> str:
    """JSON for a file or for stdout, one trailing newline."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
