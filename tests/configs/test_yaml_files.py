"""The one reader of YAML: what hangs, multiplies or says something twice is refused at once."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scalekv.configs.budget_files import load_budget
from scalekv.configs.models import read_preset
from scalekv.configs.settings import Settings
from scalekv.configs.yaml_files import MOST_BYTES, parse_yaml, read_yaml
from scalekv.kv.errors import UserError

BOMB = "a: &a [x, x]\n" + "".join(
    f"{new}: &{new} [*{old}, *{old}, *{old}, *{old}, *{old}, *{old}, *{old}, *{old}]\n"
    for old, new in zip("abcdefghijkl", "bcdefghijklm", strict=True)
)
BAD: dict[str, tuple[str | bytes, str]] = {
    "aliases": (BOMB, "alias"),
    "brackets": ("mean: " + "[" * 5000, "levels"),
    "maps": ("{a: " * 5000, "levels"),
    "twice": ("mean: 40\nmean: 50\n", "twice"),
    "twice inside": ("capacities: {9: [1], 9: [2]}\n", "twice"),
    "too large": ("# " + "x" * MOST_BYTES + "\nmean: 40\n", "KiB"),
    "no text": (b"mean: \xff\xfe", "UTF-8"),
    "no control characters": ("mean: \x00", "YAML"),
    "objects": ("mean: !!python/object/apply:os.getcwd []", "YAML"),
    "no date": ("mean: !!timestamp 2001-99-99", "YAML"),
    "no number": ("mean: !!int forty", "YAML"),
    "two documents": ("mean: 40\n---\nmean: 50\n", "YAML"),
    "unhashable": ("? [a]\n: b\n", "YAML"),
}
READERS: dict[str, Callable[[Path], object]] = {
    "budget": load_budget,
    "preset": read_preset,
    "settings": lambda path: Settings({"SCALEKV_CONFIG": str(path)}),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", [n for n in BAD if not n.startswith("no ")] + ["no text"])
def test_no_file_hangs_or_passes_with_something_said_twice(
    tmp_path: Path, reader: str, name: str
) -> None:
    content, text = BAD[name]
    path = tmp_path / "own.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    start = time.perf_counter()
    with pytest.raises(UserError) as refused:
        READERS[reader](path)
    assert time.perf_counter() - start < 2
    if not (reader == "settings" and name == "objects"):  # text to it, and no key of a setting
        assert text in str(refused.value)
    assert str(path) in refused.value.where


@pytest.mark.parametrize("name", BAD)
def test_values_that_are_none_are_refused(name: str) -> None:
    content, _ = BAD[name]
    if isinstance(content, str) and name != "too large":
        with pytest.raises(UserError, match="YAML"):
            parse_yaml(content, "here")


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", ["device", "pipe"])
def test_only_files_are_read(tmp_path: Path, reader: str, kind: str) -> None:
    path = tmp_path / "own.yaml"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises(UserError, match="ordinary file"):
        READERS[reader](path)


def test_no_settings_at_all_can_still_be_said_by_the_null_device() -> None:
    assert Settings({"SCALEKV_CONFIG": os.devnull}).get("model", None).value == "emoji"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("040", 40),
        ("0o40", "0o40"),
        ("-7", -7),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("190:20:30", "190:20:30"),
        ("2024-01-02", "2024-01-02"),
        ("yes", "yes"),
        ("off", "off"),
        ("true", True),
        ("null", None),
        ("", None),
        ("1e3", 1000.0),
        ("12.5", 12.5),
        (".5", 0.5),
        (".inf", float("inf")),
        ("[1, [2, 3]]", [1, [2, 3]]),
        ("<<", "<<"),
    ],
)
def test_values_are_what_they_look_like(tmp_path: Path, text: str, value: object) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(f"\N{ZERO WIDTH NO-BREAK SPACE}key: {text}\n", encoding="utf-8")
    facts: Any = read_yaml(path)
    found = facts["key"]
    assert found == value
    assert type(found) is type(value)
    facts = read_yaml(path, words=True)
    words = facts["key"]
    assert isinstance(words, list) if text.startswith("[") else words == text


def test_a_budget_of_040_is_forty_tokens(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("model: emoji\nlayers: 6\nmean: 040\nprovenance: mine\n")
    assert load_budget(path).mean == 40


def test_a_count_beyond_all_measure_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(f"model: emoji\nlayers: 8\nmean: {'9' * 400}\nprovenance: mine\n")
    with pytest.raises(UserError, match="mean is 9999") as refused:
        load_budget(path)
    assert len(str(refused.value)) < 400
