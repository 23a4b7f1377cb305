"""Progress in bytes for people: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from scalekv.cli.console.layout import Paragraph, print_parts

SECONDS_BETWEEN_LINES = 5.0
"""Where stderr is no terminal."""


class ByteDisplay:
    """What is being done, and how many bytes of how many."""

    def __init__(self, console: Console, *, quiet: bool) -> None:
        self.console, self.quiet = console, quiet
        self._said = time.monotonic()
        self._task: TaskID | None = None
        self._bars: Progress | None = None
        if console.is_terminal and not console.is_dumb_terminal and not quiet:
            self._bars = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                DownloadColumn(binary_units=True),
                TimeRemainingColumn(),
                console=console,
                transient=True,
                redirect_stdout=False,
            )

    def __enter__(self) -> ByteDisplay:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    def say(self, text: str) -> None:
        """A line that stays."""
        if not self.quiet:
            print_parts(self.console, Paragraph(text, "dim"))

    def show(self, what: str, done: int, total: int) -> None:
        """How far it is; `what` is what is at hand, a file's name."""
        from scalekv.kv.sizes import human_bytes

        if self._bars is not None:
            if self._task is None:
                self._task = self._bars.add_task("", total=total)
                self._bars.start()
            description = what.replace("[", r"\[")
            self._bars.update(self._task, description=description, completed=done)
        elif time.monotonic() - self._said >= SECONDS_BETWEEN_LINES:
            self._said = time.monotonic()
            self.say(f"{what}  {human_bytes(done)} of {human_bytes(total)}")
