"""What people see: the program in a terminal of its own, and the text on it when it has ended.

Knows terminals (a pty, drawn by pyte) and what of a screen differs from run to run.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import sys
import termios
import traceback
from collections.abc import Callable

import pyte

LINES = 400
BROKEN = 70
"""Exit code where the program did not end by itself."""

_CLOCK = re.compile(r"\bin \d+ s at [\d.]+/(s|min|h)\b")
"""How long a batch took, and how fast it was."""


def screen(run: Callable[[], int], columns: int) -> str:
    """What a terminal of so many columns shows after `run`, in a process of its own.

    Args:
        run: returns the exit code, which is the last line where it is not 0.
    """
    terminal, its_own = pty.openpty()
    fcntl.ioctl(its_own, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, columns, 0, 0))
    child = os.fork()
    if child == 0:
        code = BROKEN
        try:
            os.close(terminal)
            os.login_tty(its_own)
            sys.stdin, sys.stdout, sys.stderr = (
                open(number, mode, encoding="utf-8", closefd=False)  # noqa: SIM115
                for number, mode in enumerate("rww")
            )
            code = run()
        except BaseException:
            traceback.print_exc()
        finally:  # whatever happens, this process must not go on as the one that it was made from
            os._exit(code)
    os.close(its_own)
    drawn = pyte.Screen(columns, LINES)
    stream = pyte.ByteStream(drawn)
    while part := _read(terminal):
        stream.feed(part)
    os.close(terminal)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    text = "\n".join(line.rstrip() for line in drawn.display).strip("\n")
    return masked(text + (f"\n[exit code {code}]" if code else "")) + "\n"


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # EIO: the other end is closed
        return b""


def masked(text: str) -> str:
    """The text with # for the figures of the clock, which no two runs share. All others are the
    stand-in's, or were worked out."""
    return _CLOCK.sub("in # s at #/s", text)
