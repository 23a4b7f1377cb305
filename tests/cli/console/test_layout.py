"""Tables and paragraphs are as wide as a terminal, and elsewhere a row a line."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from scalekv.cli.console.layout import Column, Paragraph, ResultTable, print_parts

TABLE = ResultTable(
    (
        Column("model", right=False),
        Column("bytes", rank=1),
        Column("remark", rank=2, right=False, wraps=True),
    ),
    [
        ("emoji", "4.1 MiB", "built in, 猫, and with a [long] remark on it"),
        ("infinity-2b", "3.1 GiB", ""),
    ],
)


def lines(part: object, width: int, *, terminal: bool) -> list[str]:
    file = io.StringIO()
    console = Console(
        file=file, width=width, force_terminal=terminal, color_system=None, highlight=False
    )
    print_parts(console, part)
    return file.getvalue().splitlines()


@pytest.mark.parametrize("width", [10, 200])
def test_a_pipe_gets_a_row_a_line(width: int) -> None:
    assert lines(TABLE, width, terminal=False) == [
        "model          bytes  remark",
        "emoji        4.1 MiB  built in, 猫, and with a [long] remark on it",
        "infinity-2b  3.1 GiB",
    ]


def test_the_last_column_takes_the_room_there_is() -> None:
    assert lines(TABLE, 46, terminal=True) == [
        "model          bytes  remark",
        "emoji        4.1 MiB  built in, 猫, and with a",
        "                      [long] remark on it",
        "infinity-2b  3.1 GiB",
    ]


def test_columns_go_by_rank_and_are_named() -> None:
    assert lines(TABLE, 30, terminal=True) == [
        "model          bytes",
        "emoji        4.1 MiB",
        "infinity-2b  3.1 GiB",
        "no room for: remark",
    ]
    assert lines(TABLE, 15, terminal=True) == [
        "model",
        "emoji",
        "infinity-2b",
        "no room for: bytes,",
        "remark",
    ]


def test_paragraphs() -> None:
    text = Paragraph("one two three four five six seven")
    assert lines(text, 20, terminal=True) == ["one two three four", "five six seven"]
    assert lines(text, 20, terminal=False) == ["one two three four five six seven"]
