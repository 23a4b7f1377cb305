"""Results on stdout, and what to do when whoever read it went away. Knows nothing of results."""

from __future__ import annotations

import os
import sys

from scalekv.cli.errors import PipeClosed


def say(text: str) -> None:
    """Writes a result to stdout at once.

    Raises:
        PipeClosed: nobody reads it any more.
    """
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        silence_stdout()
        raise PipeClosed from None


def silence_stdout() -> None:
    """Lets what is still buffered for a closed pipe go nowhere, at the interpreter's end too."""
    try:
        descriptor = sys.stdout.fileno()
    except (OSError, ValueError):
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)
