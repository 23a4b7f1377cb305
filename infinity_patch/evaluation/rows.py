"""Rows of measurements in JSON lines files that can be gone on with, by one process or by several.

The first line of a file holds the settings all rows have in common. A line is written whole before
the next is begun; one that a kill cut short is dropped when the file is opened again. Processes
that share the work write a file each, and read one another's. Knows nothing of what is measured.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from scalekv.configs.whole_files import replacing
from scalekv.kv.errors import UserError

Row = dict[str, Any]
Key = tuple[Any, ...]
Part = tuple[int, int]
"""Part i of n, from (1, n) to (n, n)."""

SUFFIX = ".jsonl"

Completed = Callable[[Row], Row]
"""Settings as a file has them -> with what was not recorded yet when it was written."""


def _as_they_are(settings: Row) -> Row:
    return settings


@dataclass
class Rows:
    """The rows of one file, and of those beside it. `done` holds each row's key, its values under
    the names in `key`; `path` is the file that is added to."""

    path: Path
    settings: Row
    key: tuple[str, ...] = ()
    rows: list[Row] = field(default_factory=list)
    done: set[Key] = field(default_factory=set)

    @classmethod
    def read(cls, path: Path, completed: Completed = _as_they_are) -> Rows:
        """What is in a file.

        Raises:
            UserError: no such file, or not one of these.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise UserError(
                f"no measurements there: {error.strerror or error}",
                where=str(path),
                fix="name the --out of an earlier run",
            ) from error
        whole = text[: text.rfind("\n") + 1].splitlines()
        try:
            lines = [json.loads(line) for line in whole]
            settings = lines[0]["settings"]
        except (ValueError, IndexError, KeyError, TypeError) as error:
            raise UserError(
                "not a file of measurements",
                where=str(path),
                rule="JSON lines, the first with the settings",
                fix="name another --out, or delete the file",
            ) from error
        return cls(path, completed(settings), rows=lines[1:])

    @classmethod
    def open(
        cls,
        path: Path,
        settings: Row,
        key: tuple[str, ...],
        beside: Iterable[Path] = (),
        completed: Completed = _as_they_are,
    ) -> Rows:
        """The rows to add to: those of the file, or none yet.

        Args:
            beside: files that others add to, whose rows count as done.

        Raises:
            UserError: a file is of other settings, or not one of these.
        """
        settings = json.loads(json.dumps(settings))
        found = cls(path, settings, key)
        own: list[Row] = []
        if path.exists() and path.stat().st_size:
            own = _of_settings(cls.read(path, completed), settings)
        others = [_of_settings(cls.read(other, completed), settings) for other in beside]
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, [{"settings": settings}, *own])
        for rows in (own, *others):
            for row in rows:
                found._remember(row)
        return found

    def add(self, row: Row) -> None:
        """Append a row, to the file too."""
        with self.path.open("a", encoding="utf-8") as stream:
            _line(stream, row)
        self._remember(row)

    def _remember(self, row: Row) -> None:
        """Of two rows with one key the first counts."""
        key = tuple(row[name] for name in self.key)
        if key not in self.done:
            self.rows.append(row)
            self.done.add(key)


def numbers_of(part: Part | None, count: int) -> range:
    """Those of a part, of so many from 0 on; None: all."""
    first, step = (0, 1) if part is None else (part[0] - 1, part[1])
    return range(first, count, step)


def part_file(folder: Path, name: str, part: Part | None) -> Path:
    """The file of rows that one part of the work adds to; None: the whole work is one part."""
    number = "" if part is None else f"-{part[0]}of{part[1]}"
    return folder / f"{name}{number}{SUFFIX}"


def files_of_parts(folder: Path, name: str) -> list[Path]:
    """The files of rows of that name, whoever wrote them."""
    found = folder.glob(f"{name}-*of*{SUFFIX}")
    whole = folder / f"{name}{SUFFIX}"
    return [*([whole] if whole.is_file() else []), *sorted(found)]


def rows_of_parts(
    folder: Path, name: str, key: tuple[str, ...], completed: Completed = _as_they_are
) -> Rows:
    """All rows of that name in a folder, to read.

    Raises:
        UserError: there are none, or they are of different settings.
    """
    files = files_of_parts(folder, name)
    first = Rows.read(files[0] if files else part_file(folder, name, None), completed)
    found = Rows(first.path, first.settings, key)
    for file in files:
        for row in _of_settings(Rows.read(file, completed), first.settings):
            found._remember(row)
    return found


def _of_settings(found: Rows, settings: Row) -> list[Row]:
    """The rows of a file.

    Raises:
        UserError: they are of other settings.
    """
    other = [n for n in settings | found.settings if found.settings.get(n) != settings.get(n)]
    if other:
        name = other[0]
        raise UserError(
            f"the measurements there are of another {name}: {found.settings.get(name)}, "
            f"now {settings.get(name)}",
            where=str(found.path),
            rule="rows of different settings are not mixed",
            fix="name another --out, or delete the file",
        )
    return found.rows


def _write(path: Path, lines: list[Row]) -> None:
    with replacing(path) as hidden, hidden.open("w", encoding="utf-8") as stream:
        for line in lines:
            _line(stream, line)


def _line(stream: TextIO, row: Row) -> None:
    stream.write(json.dumps(row, ensure_ascii=False) + "\n")
