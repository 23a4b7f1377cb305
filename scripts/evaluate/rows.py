"""Rows of measurements in a JSON lines file that can be gone on with.

The first line holds the settings all rows have in common. A line is written whole before the
next is begun; one that a kill cut short is dropped when the file is opened again.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from scalekv.configs.whole_files import replacing
from scalekv.kv.errors import UserError

Row = dict[str, Any]
Key = tuple[Any, ...]


@dataclass
class Rows:
    """The rows of one file. `done` holds each row's key, its values under the names in `key`."""

    path: Path
    settings: Row
    key: tuple[str, ...] = ()
    rows: list[Row] = field(default_factory=list)
    done: set[Key] = field(default_factory=set)

    @classmethod
    def read(cls, path: Path) -> Rows:
        """What is in a file.

        Raises:
            UserError: no such file, or not one of these.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise UserError(f"no measurements there: {error}", where=str(path)) from error
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
        return cls(path, settings, rows=lines[1:])

    @classmethod
    def open(cls, path: Path, settings: Row, key: tuple[str, ...]) -> Rows:
        """The rows to add to: those of the file, or none yet.

        Raises:
            UserError: the file is of other settings, or not one of these.
        """
        settings = json.loads(json.dumps(settings))
        if not path.exists() or path.stat().st_size == 0:
            path.parent.mkdir(parents=True, exist_ok=True)
            _write(path, [{"settings": settings}])
            return cls(path, settings, key)
        found = cls.read(path)
        other = [n for n in settings | found.settings if found.settings.get(n) != settings.get(n)]
        if other:
            name = other[0]
            raise UserError(
                f"the measurements there are of another {name}: {found.settings.get(name)}, "
                f"now {settings.get(name)}",
                where=str(path),
                rule="rows of different settings are not mixed",
                fix="name another --out, or delete the file",
            )
        _write(path, [{"settings": settings}, *found.rows])
        done = {tuple(row[name] for name in key) for row in found.rows}
        return cls(path, settings, key, found.rows, done)

    def add(self, row: Row) -> None:
        """Append a row, to the file too."""
        with self.path.open("a", encoding="utf-8") as stream:
            _line(stream, row)
        self.rows.append(row)
        self.done.add(tuple(row[name] for name in self.key))


def exit_code(work: Callable[[], None]) -> int:
    """Do a script's work: 0, or 2 with the reason if it is refused, or 130 if it is interrupted."""
    try:
        work()
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; what was measured is kept, and a second call goes on", file=sys.stderr)
        return 130
    return 0


def _write(path: Path, lines: list[Row]) -> None:
    with replacing(path) as hidden, hidden.open("w", encoding="utf-8") as stream:
        for line in lines:
            _line(stream, line)


def _line(stream: TextIO, row: Row) -> None:
    stream.write(json.dumps(row, ensure_ascii=False) + "\n")
