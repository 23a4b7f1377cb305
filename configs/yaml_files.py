"""Files of settings, presets and budgets: YAML read so that no file can hang or surprise.

Regular files of a bounded size and depth, no aliases, no key twice, and numbers as YAML 1.2 writes
them: 040 is forty and 1:1 is text. Knows YAML; nothing of what the keys mean.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from scalekv.kv.errors import UserError

MOST_BYTES = 1 << 17
"""Of a file; the largest that ships has 2 KiB, and this many are read within a second."""
MOST_CALIBRATION_BYTES = 1 << 23
"""Of a calibration's JSON; an order of all heads of the largest model has 200 KiB."""
MOST_CONSTANTS_BYTES = 1 << 29
"""Of the constants of a coded cache; those of the largest model have 180 MiB."""
MOST_DEEP = 32
"""Collections within each other."""


def read_bytes(path: Path, most: int) -> bytes:
    """A file's content, of at most that many bytes.

    Raises:
        OSError: it is not there or may not be read.
        UserError: no regular file, or too large.
    """
    if path.samefile(os.devnull):
        return b""
    # asked before it is opened: opening a pipe that nobody writes to waits for ever
    if not stat.S_ISREG(path.stat().st_mode) and not path.is_dir():
        raise UserError(
            f"{path} is no ordinary file",
            where=str(path),
            rule="a file on a disk; no device and no pipe",
            fix="write what it gives into a file and name that",
        )
    with path.open("rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise UserError(
            f"{path.name} has more than {most >> 10} KiB",
            where=str(path),
            rule=f"at most {most >> 10} KiB, of which such a file needs few",
            fix="name the right file",
        )
    return data


def read_text(path: Path, most: int = MOST_BYTES) -> str:
    """A text file in UTF-8, of at most that many bytes.

    Raises:
        OSError: it is not there or may not be read.
        UserError: no regular file, too large, or no text.
    """
    data = read_bytes(path, most)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"not readable: byte {error.start}, {data[error.start]:#04x}, is not UTF-8",
            where=str(path),
            rule="text in UTF-8",
            fix="name the right file, or save it as UTF-8",
        ) from None


def read_yaml(path: Path, *, words: bool = False, fix: str = "") -> object:
    """What a YAML file says.

    Args:
        words: every value as the text it is written as.
        fix: what a refusal advises.

    Raises:
        OSError: it is not there or may not be read.
        UserError: `read_text`'s, or no YAML of the kind described above.
    """
    return parse_yaml(read_text(path), str(path), words=words, fix=fix)


def parse_yaml(text: str, where: str, *, words: bool = False, fix: str = "") -> object:
    """What a text in YAML says; `where` it is from, for people.

    Raises:
        UserError: no YAML of the kind described above.
    """
    try:
        return yaml.load(text, _Words if words else _Values)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = "" if mark is None else f", line {mark.line + 1}"
        raise UserError(
            f"not readable as YAML: {error.problem or error.context}{line}",
            where=where,
            rule="mappings, lists, text and numbers; no aliases, no key twice, at most "
            f"{MOST_DEEP} levels",
            fix=fix,
        ) from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a tag whose value it is not
        raise UserError(
            f"not readable as YAML: {' '.join(str(error).split())}", where=where, fix=fix
        ) from None


class _Bounded(yaml.composer.Composer, yaml.constructor.BaseConstructor):
    """What both loaders refuse that PyYAML does not."""

    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event: Any = self.peek_event()  # type: ignore[attr-defined]
        problem = ""
        if isinstance(event, yaml.AliasEvent):
            problem = f"the alias *{event.anchor}: say it again in full"
        elif self._depth >= MOST_DEEP:
            problem = f"more than {MOST_DEEP} levels within each other"
        if problem:
            raise yaml.composer.ComposerError(None, None, problem, event.start_mark)
        self._depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable):  # the others are refused by PyYAML
                if key in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key!r} is there twice", key_node.start_mark
                    )
                seen.add(key)
        return super().construct_mapping(node, deep)


class _Words(_Bounded, yaml.BaseLoader):
    """Every scalar as it is written."""


class _Values(_Bounded, yaml.SafeLoader):
    """Scalars by the core schema of YAML 1.2; all else that looks like a value is text."""

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        return int(self.construct_scalar(node))

    def construct_yaml_float(self, node: yaml.ScalarNode) -> float:
        return float(re.sub(r"\.(inf|nan)", r"\1", self.construct_scalar(node).lower()))


_Values.yaml_implicit_resolvers = {}
_Values.add_constructor("tag:yaml.org,2002:int", _Values.construct_yaml_int)
_Values.add_constructor("tag:yaml.org,2002:float", _Values.construct_yaml_float)
for _tag, _pattern, _first in (
    ("null", r"null|Null|NULL|~|", ["n", "N", "~", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"
        r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
):
    _Values.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(f"(?:{_pattern})$"), _first
    )
