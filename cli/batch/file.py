"""Prompt files: text, CSV or JSON lines to rows, each with its line. Every line that cannot be read
is reported, not the first alone.

Knows formats, encodings and which columns there are; nothing of what the values mean.
"""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from scalekv.cli.batch.line import BadLine, options_of
from scalekv.configs import options
from scalekv.kv.errors import UserError, close_matches

FORMATS = ("txt", "csv", "jsonl")
STDIN = "-"
MOST_BYTES = 256 * 2**20  # far above any list of prompts; a device file has no end

COLUMNS = ("prompt", *options.COLUMNS, "name")
"""What a row may say; all but the prompt have a default."""

_BOMS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
MOST_NAMED = 20  # problems that are named one by one
_FIXES = {
    "json": "--format jsonl where every line is an object; jq -c '.[]' makes such lines of a list",
    "tsv": "save it with commas between the cells, as .csv",
}
"""What to do with files in formats that are not read."""


@dataclass(frozen=True)
class Row:
    """A row as it stands in the file: texts, or what JSON has; columns without a value left out."""

    line: int
    values: dict[str, Any]


@dataclass(frozen=True)
class Problem:
    """Something wrong in a line, or with 0 in the file as a whole."""

    line: int
    what: str
    rule: str = ""
    fix: str = ""

    def __str__(self) -> str:
        line = f"line {self.line}: " if self.line else ""
        return line + self.what + (f" ({self.rule})" if self.rule else "")


@dataclass
class PromptFile:
    """What was read. `name` is for messages."""

    name: str
    rows: list[Row] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def refuse(self) -> NoReturn:
        """Reports all problems.

        Raises:
            UserError: always.
        """
        ordered = sorted(self.problems, key=lambda problem: problem.line)
        if len(ordered) == 1:
            only = ordered[0]
            where = f"{self.name}, line {only.line}" if only.line else self.name
            raise UserError(only.what, where=where, rule=only.rule, fix=only.fix)
        fixes = list(dict.fromkeys(problem.fix for problem in ordered if problem.fix))
        lines = [f"{len(ordered)} problems in {self.name}", *map(str, ordered[:MOST_NAMED])]
        if len(ordered) > MOST_NAMED:
            last = ordered[-1].line
            lines.append(f"and {len(ordered) - MOST_NAMED} more, the last in line {last}")
        raise UserError(
            "\n  ".join(lines),
            fix=fixes[0] if len(fixes) == 1 else "",
        )


def read_prompts(source: str, kind: str | None = None) -> PromptFile:
    """Reads a file of prompts.

    Args:
        source: its path, or "-" for stdin.
        kind: one of `FORMATS`; None goes by the suffix, and for stdin is txt.

    Raises:
        UserError: it cannot be read, or is no text of such a format; problems of single rows are
            left in `problems`.
    """
    if kind is None:
        kind = "txt" if source == STDIN else Path(source).suffix.removeprefix(".").casefold()
    if kind not in FORMATS:
        raise UserError(
            f"no format for the suffix {Path(source).suffix!r}" if source else "no file",
            where=source,
            rule="prompts come as .txt, .csv or .jsonl",
            fix=_FIXES.get(kind, "--format txt, where every line is a prompt and nothing else"),
        )
    file = PromptFile("stdin" if source == STDIN else source)
    text = _decoded(_bytes(source), file)
    readers = {"txt": _text_rows, "csv": _csv_rows, "jsonl": _json_rows}
    file.rows.extend(readers[kind](text, file.problems))
    if not file.rows and not file.problems:
        file.problems.append(
            Problem(0, "there is no prompt in it", "one prompt a line or row", "add one")
        )
    return file


def prompts_alone(path: Path) -> tuple[str, ...]:
    """The prompts of a file where a row may say nothing else. A suffix that is none of `FORMATS`
    means txt.

    Raises:
        UserError: it cannot be read, a row has no prompt, or says more.
    """
    suffix = path.suffix.removeprefix(".").casefold()
    file = read_prompts(str(path), suffix if suffix in FORMATS else "txt")
    for row in file.rows:
        more = sorted(row.values.keys() - {"prompt"})
        if more or not isinstance(row.values.get("prompt"), str):
            what = f"it says {', '.join(more)}" if more else "there is no prompt"
            file.problems.append(Problem(row.line, what, "a prompt and nothing else"))
    if file.problems:
        file.refuse()
    return tuple(row.values["prompt"] for row in file.rows)


def shown(value: object) -> str:
    """A value as messages show it, however long it is."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _bytes(source: str) -> bytes:
    try:
        if source == STDIN:
            data = sys.stdin.buffer.read(MOST_BYTES + 1)
        else:
            with open(source, "rb") as file:
                data = file.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise UserError(
            f"cannot read the prompts: {why}",
            where=source,
            rule="a file of prompts, or - for stdin",
            fix="check the path",
        ) from None
    if len(data) > MOST_BYTES:
        raise UserError(
            "the file is too large to be a list of prompts",
            where=source,
            rule=f"at most {MOST_BYTES // 2**20} MiB",
            fix="check the path, or split the file",
        )
    return data


def _decoded(data: bytes, file: PromptFile) -> str:
    """The text with line ends as \\n. Refuses at once what is no UTF-8 text."""
    utf8 = "iconv -f WHAT_IT_IS -t UTF-8 turns it into UTF-8"
    for mark, encoding in _BOMS.items():
        if data.startswith(mark):
            file.problems.append(Problem(0, f"the file is {encoding}", "UTF-8 text", utf8))
            file.refuse()
    data = data.removeprefix(b"\xef\xbb\xbf")
    data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    file.problems.extend(_undecodable(data.split(b"\n"), utf8))
    if file.problems:
        file.refuse()
    return data.decode()


def _undecodable(lines: Sequence[bytes], fix: str) -> Iterator[Problem]:
    for number, line in enumerate(lines, start=1):
        if b"\0" in line:
            yield Problem(number, "a NUL byte", "UTF-8 text", "check that it is a text file")
            continue
        try:
            line.decode()
        except UnicodeDecodeError as error:
            place = f"byte 0x{line[error.start]:02x} at column {error.start + 1}"
            yield Problem(number, f"{place} is not UTF-8", "UTF-8 text", fix)


def _text_rows(text: str, problems: list[Problem]) -> Iterator[Row]:
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


def _csv_rows(text: str, problems: list[Problem]) -> Iterator[Row]:
    header: list[str] | None = None
    for line, cells in _cells(text, problems):
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
                    "put a text with commas in double quotes",
                )
            )
        else:
            pairs = zip(header, cells, strict=True)
            yield Row(line, {name: cell for name, cell in pairs if cell.strip()})


def _cells(text: str, problems: list[Problem]) -> Iterator[tuple[int, list[str]]]:
    """Rows with the line each starts in; ends at the first that cannot be parsed."""
    limit = csv.field_size_limit(len(text) + 1)
    try:
        reader = csv.reader(io.StringIO(text), strict=True)
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
    rule = "columns are " + ", ".join(COLUMNS)
    for number, name in enumerate(header):
        if name not in COLUMNS:
            yield Problem(line, f"unknown column {shown(name)}", rule, close_matches(name, COLUMNS))
        elif name in header[:number]:
            yield Problem(line, f"the column {name} is there twice", "every column once")
    if "prompt" not in header:
        yield Problem(line, "there is no column prompt", "the first line names the columns")


def _json_rows(text: str, problems: list[Problem]) -> Iterator[Row]:
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
        if not isinstance(content, dict):
            what = f"{shown(content)} is no object"
            problems.append(Problem(number, what, 'an object: {"prompt": "an owl"}'))
            continue
        unknown = [key for key in content if key not in COLUMNS]
        for key in unknown:
            problems.append(
                Problem(
                    number,
                    f"unknown key {shown(key)}",
                    "keys are " + ", ".join(COLUMNS),
                    close_matches(key, COLUMNS),
                )
            )
        if not unknown:
            given = {k: v for k, v in content.items() if v is not None and v != ""}
            yield Row(number, given)


class _NotAllowed(Exception):
    """JSON that Python reads and nobody should write."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise _NotAllowed("a key is there twice")
    return content


def _no_constant(name: str) -> NoReturn:
    raise _NotAllowed(f"{name} is no number")
