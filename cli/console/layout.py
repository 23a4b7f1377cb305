"""Tables and paragraphs for people: on a terminal as wide as it is, elsewhere one row a line.

Knows rich and widths; nothing of what is said. All of it is to be printed with `soft_wrap`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console, ConsoleOptions
from rich.text import Text

LEAST = 20
"""Columns that text is given, however narrow the terminal."""

_GAP = 2


@dataclass(frozen=True)
class Column:
    """One column of a table.

    rank: 0 stays on every terminal; where there is no room the highest rank goes first.
    right: to the right, as numbers are. wraps: of the last column: its words go on below, in the
    room that is left.
    """

    heading: str
    rank: int = 0
    right: bool = True
    style: str = ""
    wraps: bool = False


@dataclass(frozen=True)
class ResultTable:
    """A table. A terminal that is too narrow loses whole columns, and is told which; what is no
    terminal gets them all, a row a line."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[str]]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        kept = list(range(len(self.columns)))
        widths = [
            max(Text(cell).cell_len for cell in (column.heading, *(row[n] for row in self.rows)))
            for n, column in enumerate(self.columns)
        ]
        lost: list[str] = []
        if console.is_terminal:
            lost = self._fit(widths, kept, options.max_width)
        if any(column.heading for column in self.columns):
            yield from self._lines(
                [c.heading for c in self.columns], widths, kept, console, style="bold"
            )
        for row in self.rows:
            yield from self._lines(row, widths, kept, console)
        if any(lost):
            note = f"no room for: {', '.join(lost)}"
            yield from Paragraph(note, "dim").__rich_console__(console, options)

    def _fit(self, widths: list[int], kept: list[int], room: int) -> list[str]:
        """Takes columns away from `kept` until the others have room; returns their headings."""
        lost: list[str] = []
        while (over := sum(widths[n] for n in kept) + _GAP * (len(kept) - 1) - room) > 0:
            end = kept[-1]
            if self.columns[end].wraps and widths[end] - over >= LEAST:
                widths[end] -= over
                break
            last = max(kept, key=lambda n: (self.columns[n].rank, n))
            if not self.columns[last].rank:
                break
            kept.remove(last)
            lost.insert(0, self.columns[last].heading)
        return lost

    def _lines(
        self,
        cells: Sequence[str],
        widths: Sequence[int],
        kept: Sequence[int],
        console: Console,
        style: str = "",
    ) -> Iterator[Text]:
        line = Text()
        below: list[Text] = []
        for n in kept:
            column = self.columns[n]
            look = style or column.style
            cell = Text(cells[n], style=look)
            if column.wraps and cell.cell_len > widths[n]:
                first, *rest = cell.wrap(console, widths[n])
                below = [Text(" " * line.cell_len) + one for one in rest]
                cell = first
            fill = Text(" " * max(widths[n] - cell.cell_len, 0))
            line += (fill + cell if column.right else cell + fill) + Text(" " * _GAP)
        for one in (line, *below):
            one.rstrip()
            yield one


@dataclass(frozen=True)
class Paragraph:
    """A paragraph: broken between words on a terminal, one line elsewhere."""

    text: str
    style: str = ""
    indent: int = 0

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        text = Text(self.text, style=self.style)
        if not console.is_terminal:
            yield Text(" " * self.indent) + text
            return
        for line in text.wrap(console, max(options.max_width - self.indent, LEAST)):
            line.rstrip()
            yield Text(" " * self.indent) + line


def print_parts(console: Console, *parts: Any) -> None:
    """Prints tables, paragraphs and texts, one under the other."""
    for part in parts:
        console.print(part, soft_wrap=True, markup=False)
