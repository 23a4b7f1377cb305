"""A result as people see it on stdout. Knows tables; every figure is somebody else's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scalekv.cli.console.layout import Column, Paragraph, ResultTable
from scalekv.cli.console.stdout import show
from scalekv.infinity_patch.evaluation.tables import (
    Grid,
    beside_papers,
    differences,
    headline,
    left_out,
    quality,
)


def show_result(result: Mapping[str, Any]) -> None:
    """Prints the table, the papers' beside it, and what differs."""
    show(
        Paragraph(headline(result), "bold"),
        _table(quality(result)),
        *(Paragraph(line, "dim") for line in left_out(result)),
        Paragraph("Beside the papers", "bold"),
        _table(beside_papers(result)),
        *(Paragraph(f"- {line}", "dim") for line in differences(result)),
    )


def _table(grid: Grid) -> ResultTable:
    columns = [
        Column(heading, right=place >= grid.words, rank=max(place - grid.words, 0))
        for place, heading in enumerate(grid.headings)
    ]
    return ResultTable(columns, grid.rows)
