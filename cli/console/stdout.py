"""Results on stdout: lines and objects of JSON. Knows stdout alone; nothing of what is said.

`streams` sees to it that no reader who leaves and no full disk interrupts a command.
"""

from __future__ import annotations

import json
import sys


def say(text: str) -> None:
    """Writes whole lines, at once; without control characters where a terminal would obey them."""
    from scalekv.cli.console.terminal import harmless

    _write(harmless(text) if sys.stdout.isatty() else text)


def say_json(value: object) -> None:
    """Writes an object in ASCII: JSON in whatever encoding stdout has."""
    say(json.dumps(value, indent=2) + "\n")


def show(*parts: object) -> None:
    """Writes tables, paragraphs and coloured text as stdout shows them: without colour where it is
    no terminal."""
    from scalekv.cli.console.layout import print_parts
    from scalekv.cli.console.terminal import Terminal

    console = Terminal(highlight=False)
    with console.capture() as capture:
        print_parts(console, *parts)
    _write(capture.get())


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def to_json(value: object) -> str:
    """JSON for a UTF-8 file, one trailing newline."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
