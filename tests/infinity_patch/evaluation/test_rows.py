"""A file of rows is gone on with after a kill, and never mixed with other settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from scalekv.kv.errors import UserError
from scripts.evaluate.rows import Rows, exit_code

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


def test_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    def refused() -> None:
        raise UserError("no such thing", where="--out")

    assert [exit_code(work) for work in (lambda: None, refused, interrupted)] == [0, 2, 130]
    assert "no such thing" in (told := capsys.readouterr().err)
    assert "a second call goes on" in told
