"""stdin, stdout and stderr as a command can rely on them: all three open, no encoding and no reader
that leaves able to end a run. Knows streams; nothing of what is said.

A process may be started with any of the three closed (`>&-`, daemons): Python then has None for it,
and the next file that is opened would take its descriptor.
"""

from __future__ import annotations

import codecs
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO, cast

ESCAPED = "scalekv-escaped"
"""Name of the way in which characters are written that a stream's encoding lacks."""


class Lost:
    """What could not be written, and why: the first time counts."""

    def __init__(self) -> None:
        self.error: Exception | None = None

    @property
    def matters(self) -> bool:
        """Whether somebody still wanted it: whoever closes a pipe has read what they wanted."""
        return self.error is not None and not isinstance(self.error, BrokenPipeError)

    @property
    def why(self) -> str:
        """In the words of the system."""
        return getattr(self.error, "strerror", None) or str(self.error)


@contextmanager
def usable_streams() -> Iterator[Lost]:
    """Inside, `sys.stdout` and `sys.stderr` can be written to, whatever the process was given.

    Yields:
        What became of stdout. What is said on stderr is worth trying and never a failure.
    """
    before = sys.stdin, sys.stdout, sys.stderr
    _open_closed_ones()
    codecs.register_error(ESCAPED, _escaped)
    handlers = [(stream, stream.errors) for stream in (sys.stdout, sys.stderr) if stream.errors]
    for stream, _ in handlers:
        _write_with(stream, ESCAPED)
    lost = Lost()
    sys.stdout = cast(TextIO, _Forgiving(sys.stdout, lost))
    sys.stderr = cast(TextIO, _Forgiving(sys.stderr, Lost()))
    try:
        yield lost
    finally:
        sys.stdin, sys.stdout, sys.stderr = before
        for stream, errors in handlers:
            _write_with(stream, errors)


def _silence(stream: TextIO) -> None:
    """Lets what is still buffered for a closed pipe go nowhere, at the interpreter's end too."""
    try:
        descriptor = stream.fileno()
    except (OSError, ValueError):
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


def _open_closed_ones() -> None:
    """Puts nothing in the place of what is closed: descriptors 0, 1 and 2 are taken afterwards."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            taken = os.open(os.devnull, os.O_RDWR)  # the lowest that is free: this one
            assert taken == descriptor, (taken, descriptor)
            os.set_inheritable(taken, True)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115


def _write_with(stream: Any, errors: str) -> None:
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors=errors)


def _escaped(error: UnicodeError) -> tuple[str | bytes, int]:
    """A byte of a file's name that is no text as that byte; any other character as its escape."""
    assert isinstance(error, UnicodeEncodeError), error
    character = error.object[error.start]
    if "\udc80" <= character <= "\udcff":
        return bytes([ord(character) - 0xDC00]), error.start + 1
    return character.encode("ascii", "backslashreplace"), error.start + 1


class _Forgiving:
    """A stream that remembers instead of failing, and writes no more after that."""

    def __init__(self, stream: TextIO, lost: Lost) -> None:
        self._stream = stream
        self._lost = lost

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except (OSError, ValueError) as error:
            self._lose(error)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except (OSError, ValueError) as error:
            self._lose(error)

    def _lose(self, error: Exception) -> None:
        """Its reader is gone, its disk is full, or it was closed."""
        if self._lost.error is None:
            self._lost.error = error
        _silence(self._stream)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
