"""A file of rows is gone on with after a kill, and never mixed with other settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from scalekv.infinity_patch.evaluation.rows import (
    Rows,
    files_of_parts,
    part_file,
    rows_of_parts,
)
from scalekv.kv.errors import UserError

KEY = ("number", "policy")


def test_rows_come_back(tmp_path: Path) -> None:
    rows = Rows.open(tmp_path / "deep" / "rows.jsonl", {"model": "emoji"}, KEY)
    rows.add({"number": 0, "policy": "full", "psnr": None})
    again = Rows.open(tmp_path / "deep" / "rows.jsonl", {"model": "emoji"}, KEY)
    assert again.rows == rows.rows == [{"number": 0, "policy": "full", "psnr": None}]
    assert again.done == {(0, "full")}


@pytest.mark.parametrize("cut", range(1, 30, 4))
def test_a_line_cut_short_is_made_again(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "rows.jsonl"
    rows = Rows.open(path, {"model": "emoji"}, KEY)
    rows.add({"number": 0, "policy": "full"})
    whole = path.read_bytes()
    rows.add({"number": 1, "policy": "full"})
    path.write_bytes(path.read_bytes()[:-cut])
    again = Rows.open(path, {"model": "emoji"}, KEY)
    assert again.done == {(0, "full")}
    assert path.read_bytes() == whole


def test_other_settings_are_refused_and_nothing_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    Rows.open(path, {"model": "emoji", "seed": 0}, KEY).add({"number": 0, "policy": "full"})
    before = path.read_bytes()
    with pytest.raises(UserError, match="another seed: 0, now 1"):
        Rows.open(path, {"model": "emoji", "seed": 1}, KEY)
    assert path.read_bytes() == before


@pytest.mark.parametrize("text", ["not json\n", "{}\n", "[]\n", "\n", "3\n"])
def test_a_foreign_file_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(text)
    with pytest.raises(UserError, match="not a file of measurements"):
        Rows.open(path, {}, KEY)
    assert path.read_text() == text


def test_nothing_there_to_report(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no measurements there"):
        Rows.read(tmp_path / "rows.jsonl")


def test_parts_see_one_anothers_rows_and_write_their_own(tmp_path: Path) -> None:
    own = [part_file(tmp_path, "pictures", (number, 2)) for number in (1, 2)]
    assert [path.name for path in own] == ["pictures-1of2.jsonl", "pictures-2of2.jsonl"]
    first = Rows.open(own[0], {"seed": 0}, KEY)
    first.add({"number": 0, "policy": "full"})
    second = Rows.open(own[1], {"seed": 0}, KEY, beside=[own[0]])
    assert second.done == {(0, "full")}
    second.add({"number": 1, "policy": "full"})
    assert len(Rows.read(own[0]).rows) == len(Rows.read(own[1]).rows) == 1
    assert files_of_parts(tmp_path, "pictures") == own
    assert [row["number"] for row in rows_of_parts(tmp_path, "pictures", KEY).rows] == [0, 1]


def test_a_row_that_two_parts_wrote_counts_once(tmp_path: Path) -> None:
    for part, psnr in ((None, 1.0), ((2, 2), 2.0)):
        rows = Rows.open(part_file(tmp_path, "pictures", part), {}, KEY)
        rows.add({"number": 0, "policy": "full", "psnr": psnr})
    assert [row["psnr"] for row in rows_of_parts(tmp_path, "pictures", KEY).rows] == [1.0]


def test_parts_of_other_settings_are_not_put_together(tmp_path: Path) -> None:
    for number in (1, 2):
        Rows.open(part_file(tmp_path, "pictures", (number, 2)), {"seed": number}, KEY)
    with pytest.raises(UserError, match="another seed: 2, now 1"):
        rows_of_parts(tmp_path, "pictures", KEY)
