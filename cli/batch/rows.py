"""The rows of a file of prompts: text, cells or JSON to columns, with the number of each. Every row
that cannot be read is a problem; the others are read.

Knows formats and which columns there are; nothing of files or of what values mean.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from typing import Any, NoReturn

from scalekv.cli.batch.line import ALSO_CALLED, BadLine, options_of
from scalekv.configs import options
from scalekv.configs.settings import NEARLY, option_name

COLUMNS = ("prompt", *options.COLUMNS, "name")
"""What a row may say; all but the prompt have a default."""


@dataclass(frozen=True)
class Row:
    """A row as it stands in the file: texts, or what JSON has; columns without a value left out.

    line: its number; notes: what other columns say, which is kept with the pictures.
    """

    line: int
    values: dict[str, Any]
    notes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Problem:
    """Something wrong in a row, or with 0 in the file as a whole."""

    line: int
    what: str
    rule: str = ""
    fix: str = ""

    def __str__(self) -> str:
        return self.what + (f" ({self.rule})" if self.rule else "")


def shown(value: object) -> str:
    """A value as messages show it, however long it is."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def prompt_lines(text: str, problems: list[Problem]) -> Iterator[Row]:
    """A prompt a line, or options."""
    for number, line in enumerate(text.split("\n"), start=1):
        prompt = line.strip()
        if not prompt or prompt.startswith("#"):
            continue
        if prompt.startswith("--"):
            try:
                yield Row(number, options_of(prompt, COLUMNS))
            except BadLine as error:
                problems.append(Problem(number, error.what, error.RULE, error.fix))
        else:
            marked = prompt.startswith(("\\#", "\\--"))
            yield Row(number, {"prompt": prompt[1:] if marked else prompt})


def csv_rows(text: str, problems: list[Problem]) -> Iterator[Row]:
    """Cells with commas between, under a header."""
    return _table_rows(text, ",", problems)


def tsv_rows(text: str, problems: list[Problem]) -> Iterator[Row]:
    """Cells with tabs between, under a header."""
    return _table_rows(text, "\t", problems)


def _table_rows(text: str, between: str, problems: list[Problem]) -> Iterator[Row]:
    header: list[str] | None = None
    for line, cells in _cells(text, between, problems):
        if not any(cell.strip() for cell in cells):
            continue
        if header is None:
            header = [cell.strip() for cell in cells]
            bad = list(_header_problems(line, header))
            problems.extend(bad)
            if bad:
                return
        elif len(cells) != len(header):
            problems.append(
                Problem(
                    line,
                    f"{len(cells)} cells, the header has {len(header)}",
                    "one cell for every column",
                    "put a text with commas in double quotes" if between == "," else "",
                )
            )
        else:
            pairs = zip(header, cells, strict=True)
            yield _row(line, {name: cell for name, cell in pairs if cell.strip()})


def _row(line: int, given: Mapping[str, Any]) -> Row:
    """Columns that are known, and the others as notes."""
    return Row(
        line,
        {name: value for name, value in given.items() if name in COLUMNS},
        {name: value for name, value in given.items() if name not in COLUMNS},
    )


def _cells(text: str, between: str, problems: list[Problem]) -> Iterator[tuple[int, list[str]]]:
    """Rows with the line each starts in; ends at the first that cannot be parsed."""
    limit = csv.field_size_limit(len(text) + 1)
    try:
        reader = csv.reader(io.StringIO(text), delimiter=between, strict=True)
        while True:
            line = reader.line_num + 1
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                unclosed = "unexpected end" in str(error)
                problems.append(
                    Problem(
                        line,
                        "a quote is opened and not closed" if unclosed else f"no CSV: {error}",
                        'a cell in double quotes has every quote inside doubled: ""',
                        "mend the quotes; rows after this one were not read",
                    )
                )
                return
            yield line, cells
    finally:
        csv.field_size_limit(limit)


def _header_problems(line: int, header: Sequence[str]) -> Iterator[Problem]:
    for number, name in enumerate(header):
        if name in header[:number]:
            yield Problem(line, f"the column {name} is there twice", "every column once")
        else:
            yield from _name_problems(line, name, "column")
    if "prompt" not in header:
        yield Problem(line, "there is no column prompt", "the first line names the columns")


def _name_problems(line: int, name: str, noun: str) -> Iterator[Problem]:
    """Why a name is neither a column nor one for notes: it would be nearly one, or an option."""
    if name in COLUMNS:
        return
    plain = name.strip().casefold().replace("-", "_").replace(" ", "_")
    meant = _meant(plain)
    if plain and meant is None and plain not in options.BY_NAME:
        return
    rule = f"{noun}s are {', '.join(COLUMNS)}; others are notes, and called like none of these"
    if not plain:
        yield Problem(line, f"a {noun} without a name", rule)
    elif meant is not None:
        yield Problem(line, f"unknown {noun} {shown(name)}", rule, f"did you mean {meant}?")
    else:
        what = f"{plain} is nothing that single rows can say"
        yield Problem(line, what, rule, f"{option_name(plain)} says it for the whole batch")


@cache
def _meant(name: str) -> str | None:
    """The column that a name is another word for, or is nearly called like."""
    near = get_close_matches(name, COLUMNS, 1, NEARLY)
    close = [column for column in near if abs(len(column) - len(name)) < 2]
    return ALSO_CALLED.get(name) or (close[0] if close else None)


def json_lines(text: str, problems: list[Problem]) -> Iterator[Row]:
    """An object a line."""
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            content = json.loads(line, object_pairs_hook=_once, parse_constant=_no_constant)
        except _NotAllowed as error:
            problems.append(Problem(number, str(error), "keys once, numbers finite"))
            continue
        except json.JSONDecodeError as error:
            what = f"no JSON: {error.msg} at column {error.colno}"
            problems.append(Problem(number, what, "one JSON object a line"))
            continue
        except (ValueError, RecursionError) as error:  # an endless number, an endless nesting
            problems.append(Problem(number, f"no JSON: {error}", "one JSON object a line"))
            continue
        yield from _objects(number, content, problems)


def json_items(text: str, problems: list[Problem]) -> Iterator[Row]:
    """The items of one list, counted from 1: objects, or texts that are prompts."""
    try:
        content = json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant)
    except _NotAllowed as error:
        problems.append(Problem(0, str(error), "keys once, numbers finite"))
        return
    except json.JSONDecodeError as error:
        what = f"no JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        fix = "--file-format jsonl where every line is an object" if "Extra" in error.msg else ""
        problems.append(Problem(0, what, "one list of objects", fix))
        return
    except (ValueError, RecursionError) as error:
        problems.append(Problem(0, f"no JSON: {error}", "one list of objects"))
        return
    if not isinstance(content, list):
        what = f"{shown(content)} is no list"
        problems.append(Problem(0, what, 'a list: [{"prompt": "an owl"}, "a fox"]'))
        return
    for number, item in enumerate(content, start=1):
        yield from _objects(number, {"prompt": item} if isinstance(item, str) else item, problems)


def _objects(number: int, content: object, problems: list[Problem]) -> Iterator[Row]:
    """The row that an object is; none, and problems, where it is none."""
    if not isinstance(content, dict):
        what = f"{shown(content)} is no object"
        problems.append(Problem(number, what, 'an object: {"prompt": "an owl"}'))
        return
    bad = [problem for name in content for problem in _name_problems(number, name, "key")]
    problems.extend(bad)
    if not bad:
        yield _row(number, {k: v for k, v in content.items() if v is not None and v != ""})


class _NotAllowed(Exception):
    """JSON that Python reads and nobody should write."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise _NotAllowed("a key is there twice")
    return content


def _no_constant(name: str) -> NoReturn:
    raise _NotAllowed(f"{name} is no number")
