"""A picture of a budget for a terminal: layers across, scales down, the share kept as blocks.

Knows capacities; nothing of models. Height says it all, colour repeats it where there is one.
"""

from __future__ import annotations

from collections.abc import Iterator

from rich.color import Color
from rich.style import Style
from rich.text import Text

from scalekv.kv.budgets.budget import Budget

BLOCKS = "▁▂▃▄▅▆▇█"
DIGITS = "12345678"
"""Instead of blocks, where stdout cannot write them."""

LABEL, FIGURES = 23, 16
"""Columns left and right of the picture."""
NARROW = 60  # columns; below that the figures on the right are left out


def heat(budget: Budget, width: int, *, encoding: str = "utf-8") -> Iterator[Text]:
    """Lines of the picture: a block of all scales for as many layers as fit side by side.

    Args:
        width: of the terminal, in columns.
        encoding: of stdout.
    """
    marks = _marks(encoding)
    figures = FIGURES if width >= NARROW else 0
    room = max(width - LABEL - figures, 8)
    cell = 2 if budget.layers * 2 <= room else 1
    parts = -(-budget.layers * cell // room)
    across = -(-budget.layers // parts)
    for first in range(0, budget.layers, across):
        if first:
            yield Text()
        layers = range(first, min(first + across, budget.layers))
        title = f"layers {layers[0]}-{layers[-1]}"
        wide = max(len(layers) * cell, len(title))
        line = f"scale    map  history  {title:{wide}}"
        yield Text(line + ("   least   most" if figures else ""), style="dim")
        for scale in range(len(budget.schedule)):
            yield _line(budget, scale, layers, marks, cell, wide, bool(figures))


def _line(
    budget: Budget, scale: int, layers: range, marks: str, cell: int, wide: int, figures: bool
) -> Text:
    height, width = budget.schedule.scales[scale]
    history = budget.schedule.before(scale)
    line = Text(f"{scale + 1:5}  {f'{height}x{width}':>6}  {history:7}  ")
    for layer in layers:
        capacity = budget.capacity(scale, layer)
        line.append_text(_cell(capacity, history, marks, cell))
    line.append(" " * (wide - len(layers) * cell))
    if figures:
        row = budget.capacities[scale]
        line.append(f"  {min(row):6} {max(row):6}")
    return line


def _cell(capacity: int, history: int, marks: str, cell: int) -> Text:
    if not history:
        return Text(" " * cell)
    share = capacity / history
    step = min(int(share * len(marks)), len(marks) - 1)
    red, blue = round(60 + 180 * share), round(220 - 180 * share)
    colour = Style(color=Color.from_rgb(red, 90, blue))
    return Text(marks[step] * cell, style=colour)


def _marks(encoding: str) -> str:
    try:
        BLOCKS.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return DIGITS
    return BLOCKS
