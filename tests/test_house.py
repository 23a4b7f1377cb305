"""The house keeps its shape: small files, small rooms, and every public name for one thing."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("cli", "infinity_patch", "configs", "kv")
FOLDERS = (*PACKAGES, "scripts", "tests")
MOST_LINES = 400
MOST_FILES = 15
ROWS_OF_ONE_KIND = {"kv/policies"}  # a method a file
COMMANDS = {"command.py", "models.py", "convert.py", "download.py", "doctor.py", "inspect.py"}
"""A command may be called like what it does, and so may the door to it, cli/engine.py."""
EVERYWHERE = {"main"}


def files(*folders: str) -> Iterator[Path]:
    for folder in folders:
        yield from sorted((ROOT / folder).rglob("*.py"))


def test_no_file_is_long() -> None:
    lengths = {f: len(f.read_text(encoding="utf-8").splitlines()) for f in files(*FOLDERS)}
    long = {str(f.relative_to(ROOT)): n for f, n in lengths.items() if n > MOST_LINES}
    assert not long


def test_no_room_is_crowded() -> None:
    rooms: defaultdict[str, int] = defaultdict(int)
    for file in files(*PACKAGES):
        rooms[file.parent.relative_to(ROOT).as_posix()] += file.name != "__init__.py"
    crowded = {room: n for room, n in rooms.items() if n > MOST_FILES}
    assert not crowded.keys() - ROWS_OF_ONE_KIND


def defined(file: Path) -> Iterator[ast.ClassDef | ast.FunctionDef]:
    """The public classes and functions of a module."""
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
            yield node


def may_repeat(file: Path) -> bool:
    """Whether a module's functions may be called like those that do the work for them."""
    in_cli = file.is_relative_to(ROOT / "cli")
    return in_cli and (file.name in COMMANDS or file.name == "engine.py")


@pytest.mark.parametrize("kind", [ast.ClassDef, ast.FunctionDef])
def test_a_public_name_means_one_thing(kind: type[ast.AST]) -> None:
    """Classes everywhere but in tests; functions in the packages, as scripts are programs each."""
    folders = (*PACKAGES, "scripts") if kind is ast.ClassDef else PACKAGES
    places: defaultdict[str, list[str]] = defaultdict(list)
    for file in files(*folders):
        if not may_repeat(file):
            for node in defined(file):
                if isinstance(node, kind):
                    places[node.name].append(str(file.relative_to(ROOT)))
    twice = {name: where for name, where in places.items() if len(where) > 1}
    assert not twice.keys() - EVERYWHERE, twice
