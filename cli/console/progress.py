"""How far a run is, on stderr: a moving line on a terminal, plain lines elsewhere.

Knows pictures, scales and bytes; nothing of how pictures are made.
"""

from __future__ import annotations

import logging
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    ProgressColumn,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.progress import Progress as Bars

from scalekv.cli.console.layout import Paragraph, print_parts
from scalekv.kv.sizes import human_bytes

if TYPE_CHECKING:
    from scalekv.infinity_patch import Progress

SECONDS_BETWEEN_LINES = 5.0
"""Where lines are plain, scales that pass faster than this are not told one by one."""

NARROW = 70  # columns; below that there is no room for a bar

_LOG = logging.getLogger("scalekv")
"""What the library has to say besides errors."""


class Display:
    """Shows stages, scales and notes; a context manager. `quiet` shows nothing at all.

    Args:
        console: of stderr.
        quiet: show nothing.
        elapsed: count seconds beside the bar.
    """

    def __init__(self, console: Console, *, quiet: bool = False, elapsed: bool = True) -> None:
        self.console = console
        self.quiet = quiet
        self._task: TaskID | None = None
        self._said = time.monotonic()
        moving = console.is_terminal and not console.is_dumb_terminal and not quiet
        self._bars = self._make_bars(elapsed) if moving else None
        self._log = _Notes(self)

    def __enter__(self) -> Self:
        _LOG.addHandler(self._log)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _LOG.removeHandler(self._log)
        self.clear()

    def note(self, text: str) -> None:
        """A line that stays."""
        if not self.quiet:
            print_parts(self.console, Paragraph(text, "dim"))
            self._said = time.monotonic()

    def stage(self, text: str) -> None:
        """What is going on now, of unknown length."""
        if self._bars is not None:
            self._show(escape(text), total=None, completed=0)
        else:
            self.note(text)

    def scale_done(self, progress: Progress) -> None:
        """One more scale of a picture, or of several that are made together."""
        picture = _which(progress.picture, progress.together, progress.pictures)
        done = progress.scale + 1
        scale = f"scale {done}/{progress.scales}"
        held = f"cache {human_bytes(progress.held_bytes)}"
        if self._bars is not None:
            self._show(f"{picture}  {scale}  {held}", total=progress.scales, completed=done)
        elif time.monotonic() - self._said >= SECONDS_BETWEEN_LINES:
            self.note(f"{picture}  {scale}  {held}")

    def status(self, text: str, completed: float, total: int) -> None:
        """How far a long run is: moves on a terminal, elsewhere a line every few seconds."""
        if self._bars is not None:
            self._show(escape(text), total=total, completed=completed)
        elif time.monotonic() - self._said >= SECONDS_BETWEEN_LINES:
            self.note(text)

    def picture_done(
        self, index: int, pictures: int, seconds: float, prompt: str, together: int = 1
    ) -> None:
        """A finished picture, or `together` of them from `index` on; leaves the terminal free for
        its path."""
        self.clear()
        short = prompt if len(prompt) <= 60 else prompt[:59] + "…"
        which = _which(index, together, pictures)
        self.note(f"{which}  {seconds:.1f} s  {' '.join(short.split())}")
        self._said = time.monotonic()

    def smaller_batch(self, size: int) -> None:
        """Memory ran out with more pictures at once than `size`."""
        self.note(f"memory ran out: {size} at a time from now on")

    def clear(self) -> None:
        """Takes the moving line away."""
        if self._bars is not None and self._task is not None:
            self._bars.stop()
            self._bars.remove_task(self._task)
            self._task = None

    def _show(self, text: str, *, total: int | None, completed: float) -> None:
        assert self._bars is not None
        if self._task is None:
            self._task = self._bars.add_task(text, total=total)
            self._bars.start()
        self._bars.update(
            self._task, description=text, total=total, completed=completed, refresh=True
        )

    def _make_bars(self, elapsed: bool) -> Bars:
        columns: list[ProgressColumn] = [SpinnerColumn(), TextColumn("{task.description}")]
        if self.console.width >= NARROW:
            columns += [BarColumn(bar_width=24), *([TimeElapsedColumn()] if elapsed else [])]
        # stdout is left alone: it may be a pipe, and paths must not come out on stderr.
        return Bars(*columns, console=self.console, transient=True, redirect_stdout=False)


def _which(index: int, together: int, pictures: int) -> str:
    first, last = index + 1, index + together
    which = f"picture {first}" if first == last else f"pictures {first}-{last}"
    return f"{which}/{pictures}"


class _Notes(logging.Handler):
    """Shows what is logged as notes of a display."""

    def __init__(self, display: Display) -> None:
        super().__init__()
        self._display = display

    def emit(self, record: logging.LogRecord) -> None:
        self._display.note(record.getMessage())
