"""Prompt files: read, decoded and turned into rows. Every row that cannot be read is reported, not
the first alone.

Knows files and encodings; nothing of what is in the rows.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from scalekv.cli.batch.rows import (
    Problem,
    Row,
    csv_rows,
    json_items,
    json_lines,
    prompt_lines,
    tsv_rows,
)
from scalekv.kv.errors import UserError

_READERS = {
    "txt": prompt_lines,
    "csv": csv_rows,
    "tsv": tsv_rows,
    "jsonl": json_lines,
    "json": json_items,
}
FORMATS = tuple(_READERS)
STDIN = "-"
MOST_BYTES = 256 * 2**20  # far above any list of prompts; a device file has no end

_BOMS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
MOST_NAMED = 20  # problems that are named one by one


@dataclass
class PromptFile:
    """What was read. `name` is for messages; `unit` is what its rows are counted in."""

    name: str
    unit: str = "line"
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
            where = f"{self.name}, {self.unit} {only.line}" if only.line else self.name
            raise UserError(only.what, where=where, rule=only.rule, fix=only.fix)
        fixes = list(dict.fromkeys(problem.fix for problem in ordered if problem.fix))
        lines = [f"{len(ordered)} problems in {self.name}", *map(self._told, ordered[:MOST_NAMED])]
        if len(ordered) > MOST_NAMED:
            last = ordered[-1].line
            lines.append(f"and {len(ordered) - MOST_NAMED} more, the last in {self.unit} {last}")
        raise UserError(
            "\n  ".join(lines),
            fix=fixes[0] if len(fixes) == 1 else "",
        )

    def _told(self, problem: Problem) -> str:
        return f"{self.unit} {problem.line}: {problem}" if problem.line else str(problem)


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
            rule="prompts come as " + ", ".join(f".{name}" for name in FORMATS),
            fix="--file-format txt, where every line is a prompt and nothing else",
        )
    file = PromptFile("stdin" if source == STDIN else source)
    text = _decoded(_bytes(source), file)
    file.unit = "item" if kind == "json" else "line"
    file.rows.extend(_READERS[kind](text, file.problems))
    if not file.rows and not file.problems:
        file.problems.append(
            Problem(0, "there is no prompt in it", "one prompt a line or row", "add one")
        )
    return file


def prompts_alone(path: Path | str) -> tuple[str, ...]:
    """The prompts of a file, or of stdin, where a row may say nothing else. A suffix that is none
    of `FORMATS` means txt.

    Raises:
        UserError: it cannot be read, a row has no prompt, or says more.
    """
    suffix = Path(path).suffix.removeprefix(".").casefold()
    file = read_prompts(str(path), suffix if suffix in FORMATS else "txt")
    for row in file.rows:
        more = sorted((row.values | row.notes).keys() - {"prompt"})
        if more or not isinstance(row.values.get("prompt"), str):
            what = f"it says {', '.join(more)}" if more else "there is no prompt"
            file.problems.append(Problem(row.line, what, "a prompt and nothing else"))
    if file.problems:
        file.refuse()
    return tuple(row.values["prompt"] for row in file.rows)


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
