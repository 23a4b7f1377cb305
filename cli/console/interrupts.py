"""Ctrl-C and SIGTERM: what a signal does while the program starts, while there is something to
keep, and while something must be whole. Knows signals only.

A program that has done nothing yet leaves at once. Inside `interruptible()` a signal is a
KeyboardInterrupt, whichever it was; `received` tells which. Inside `interrupts_wait()` it waits.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
"""What asks a program to end: Ctrl-C; docker stop, systemd and Slurm; a terminal that closes."""

_received: int | None = None


def received() -> int:
    """The number of the signal that came last; SIGINT where none was seen, for whoever raises
    KeyboardInterrupt without one."""
    return signal.SIGINT if _received is None else _received


def forget_in_texts() -> None:
    """Has Python forget a KeyboardInterrupt that came while a text was executed, as those are that
    dataclasses and namedtuples are made by: `python -m` would end by SIGINT, handled or not and
    whatever the exit code, unless another text is executed after it."""
    exec("")


def leave_at_once() -> None:
    """From now on a signal ends the process with 128 plus its number and one line: for the time in
    which nothing was done that could be lost. A signal that is ignored stays so (nohup)."""
    for number in SIGNALS:
        if signal.getsignal(number) not in (signal.SIG_IGN, None):
            signal.signal(number, _leave)


def _leave(number: int, _frame: FrameType | None) -> None:
    message = "interrupted"
    if "--json" in sys.argv[1:]:
        import json  # here: until the handlers are set, as little as can be is imported

        error = {"kind": "interrupted", "code": 128 + number, "what": message}
        message = json.dumps({"error": error})
    try:
        os.write(2, f"{message}\n".encode())
    finally:
        os._exit(128 + number)  # not an exception: an import that is under way might swallow it


@contextmanager
def interruptible() -> Iterator[None]:
    """Inside, a signal raises KeyboardInterrupt; for work that has something to keep or to undo.

    An exception raised by a signal can get lost where Python cannot hand it on (in a finaliser, in
    a callback of a library): `check` raises it again, and so does the end of the block.

    Raises:
        KeyboardInterrupt: at the end, where one got lost.
    """
    global _received
    if threading.current_thread() is not threading.main_thread():
        yield  # signals go to the main thread alone
        return
    _received = None
    with _handled(_raise), _no_word_of_what_got_lost():
        yield
        raise_lost()


def raise_lost() -> None:
    """Raises again what got lost.

    Raises:
        KeyboardInterrupt: a signal came inside `interruptible()`, and the work goes on.
    """
    if _received is not None:
        raise KeyboardInterrupt


def _raise(number: int, _frame: FrameType | None) -> None:
    global _received
    _received = number
    raise KeyboardInterrupt


@contextmanager
def interrupts_wait(*, leave_at_second: bool = False) -> Iterator[None]:
    """Holds a signal back until the block has ended by itself; for what must be whole.

    Args:
        leave_at_second: a second signal, of somebody who will not wait, ends the process at once:
            for blocks that take seconds and leave nothing half done, such as imports.

    Raises:
        KeyboardInterrupt: at the end, where there was a signal meanwhile.
    """
    global _received
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:
        came.append(number)
        if leave_at_second and len(came) > 1:
            _leave(number, frame)

    try:
        with _handled(remember):
            yield
    finally:
        if came:
            _received = came[0]
            raise KeyboardInterrupt


@contextmanager
def told_how_it_ends(tell: Callable[[str], None]) -> Iterator[None]:
    """Calls `tell` when the block ends, with how it does: "complete", "interrupted" or "failed".
    Signals wait until it has written what there is. What ended the block is raised on."""
    outcome = "failed"
    try:
        yield
        outcome = "complete"
    except KeyboardInterrupt:
        outcome = "interrupted"
        raise
    finally:
        with interrupts_wait():
            tell(outcome)


@contextmanager
def _handled(handler: Any) -> Iterator[None]:
    before = {n: signal.getsignal(n) for n in SIGNALS}
    mine = [n for n in SIGNALS if before[n] not in (signal.SIG_IGN, None)]  # None: not Python's
    for number in mine:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number in mine:
            signal.signal(number, before[number])


@contextmanager
def _no_word_of_what_got_lost() -> Iterator[None]:
    before = sys.unraisablehook

    def tell(lost: Any) -> None:
        if not isinstance(lost.exc_value, KeyboardInterrupt):
            before(lost)

    sys.unraisablehook = tell
    try:
        yield
    finally:
        sys.unraisablehook = before
