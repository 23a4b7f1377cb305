"""Files appear whole, under names nobody had, or not at all."""

from __future__ import annotations

import errno
import io
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from scalekv.cli.pictures import folder as output
from scalekv.cli.pictures.folder import OutputFolder
from scalekv.cli.pictures.names import slug
from scalekv.cli.pictures.writing import CHUNK, JOB_CHUNK, Writing
from scalekv.configs.whole_files import give_name
from scalekv.kv.errors import UserError

IMAGE = Image.new("RGB", (4, 4), "red")


def save(folder: OutputFolder, prompt: str = "a red apple") -> tuple[Path, Path]:
    settings = {"prompt": prompt, "seed": 7}
    return folder.save_picture(IMAGE, prompt, 7, settings, {"settings": settings})


def names(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a red apple", "a-red-apple"),
        ("  A/B\\C:  ..", "a-b-c"),
        ("../../etc/passwd", "etc-passwd"),
        ("ein grüner Frosch", "ein-grüner-frosch"),
        ("一个红苹果", "一个红苹果"),
        ("हिन्दी में एक सेब", "हिन्दी-में-एक-सेब"),
        ("تُفَّاحَة حَمْرَاء", "تُفَّاحَة-حَمْرَاء"),
        ("می\u200cخواهم", "میخواهم"),
        ("cafe\u0301 ❤\ufe0f noir", "café-noir"),
        ("!!!", "picture"),
        ("one two three four five six seven eight nine", "one-two-three-four-five-six-seven-eight"),
        ("x" * 500, "x" * 40),
        ("a " + "x" * 500, "a-" + "x" * 38),
    ],
)
def test_slug(text: str, expected: str) -> None:
    assert slug(text) == expected


def test_picture_sidecar_and_embedded_settings(tmp_path: Path) -> None:
    picture, sidecar = save(OutputFolder(tmp_path), "ein grüner 🐸")
    assert names(tmp_path) == ["7-ein-grüner.json", "7-ein-grüner.png"]
    with Image.open(picture) as image:
        assert image.tobytes() == IMAGE.tobytes()
        texts: dict[str, str] = image.text  # type: ignore[attr-defined]
    assert texts["Description"] == "ein grüner 🐸"
    assert json.loads(texts["scalekv"]) == {"format": 1, "prompt": "ein grüner 🐸", "seed": 7}
    facts = json.loads(sidecar.read_text(encoding="utf-8"))
    assert facts["file"] == picture.name
    assert facts["settings"]["seed"] == 7


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    folder = OutputFolder(tmp_path)
    (tmp_path / "7-a-red-apple.png").write_text("mine")
    (tmp_path / "7-a-red-apple-2.json").write_text("mine")
    assert [path.name for path in save(folder)] == ["7-a-red-apple-3.png", "7-a-red-apple-3.json"]
    assert (tmp_path / "7-a-red-apple.png").read_text() == "mine"
    assert (tmp_path / "7-a-red-apple-2.json").read_text() == "mine"
    runs = [OutputFolder(tmp_path) for _ in range(3)]
    assert [run.save_report({"run": i}).name for i, run in enumerate(runs)] == [
        "report.json",
        "report-2.json",
        "report-3.json",
    ]


def test_a_run_brings_its_own_report_up_to_date(tmp_path: Path) -> None:
    first, second = OutputFolder(tmp_path), OutputFolder(tmp_path)
    first.save_report({"run": 1})
    second.save_report({"run": 2})
    path = second.save_report({"run": 2, "more": True})
    assert path.name == "report-2.json"
    assert json.loads(path.read_text()) == {"run": 2, "more": True}
    assert json.loads((tmp_path / "report.json").read_text()) == {"run": 1}
    assert second.save_page("<p>").name == "report-2.html"
    assert len(list(tmp_path.iterdir())) == 3


def test_a_report_that_cannot_be_brought_up_to_date_stays_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = OutputFolder(tmp_path)
    path = folder.save_report({"run": 1})

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(UserError, match="No space left"):
        folder.save_report({"run": 2})
    assert json.loads(path.read_text()) == {"run": 1}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("suffix", [".png", ".json"])
def test_a_name_taken_at_the_last_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    real = os.link

    def link(source: Path, target: Path) -> None:
        if target.name == f"7-a-red-apple{suffix}":
            target.write_text("theirs")
        real(source, target)

    monkeypatch.setattr(os, "link", link)
    picture, _ = save(OutputFolder(tmp_path))
    assert picture.name == "7-a-red-apple-2.png"
    assert names(tmp_path) == sorted(
        [f"7-a-red-apple{suffix}", "7-a-red-apple-2.json", "7-a-red-apple-2.png"]
    )


def test_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(source: Path, target: Path) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    folder = OutputFolder(tmp_path)
    assert [save(folder)[0].name for _ in range(2)] == ["7-a-red-apple.png", "7-a-red-apple-2.png"]
    assert len(names(tmp_path)) == 4


def test_files_obey_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        picture, _ = save(OutputFolder(tmp_path))
    finally:
        os.umask(before)
    assert stat.S_IMODE(picture.stat().st_mode) == 0o640


@pytest.mark.parametrize("failing", [1, 2])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left"), KeyboardInterrupt()])
def test_a_failed_write_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int, error: BaseException
) -> None:
    real, calls = give_name, [0]

    def failing_give_name(*args: Any) -> bool:
        calls[0] += 1
        if calls[0] == failing:
            raise error
        return real(*args)

    monkeypatch.setattr(output, "give_name", failing_give_name)
    with pytest.raises((UserError, KeyboardInterrupt)) as caught:
        save(OutputFolder(tmp_path))
    assert names(tmp_path) == []
    if isinstance(caught.value, UserError):
        assert "No space left" in str(caught.value)


def test_the_folder_is_made_and_taken_away(tmp_path: Path) -> None:
    folder = OutputFolder(tmp_path / "a" / "b")
    folder.prepare()
    assert names(tmp_path / "a") == ["b"]
    folder.discard_if_empty()
    assert names(tmp_path) == []


def test_a_folder_with_something_in_it_stays(tmp_path: Path) -> None:
    folder = OutputFolder(tmp_path / "a")
    folder.prepare()
    save(folder)
    folder.discard_if_empty()
    assert len(names(tmp_path / "a")) == 2


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/none")):
        with pytest.raises(UserError, match="cannot write to the folder"):
            OutputFolder(path).prepare()
    assert names(tmp_path) == ["file"]


def test_files_that_belong_together(tmp_path: Path) -> None:
    folder = OutputFolder(tmp_path)
    folder.save_together({"a.yaml": b"1", "b.json": b"2"}, replace=False)
    assert names(tmp_path) == ["a.yaml", "b.json"]
    with pytest.raises(UserError, match=r"b\.json is there already"):
        folder.save_together({"c.yaml": b"3", "b.json": b"4"}, replace=False)
    assert names(tmp_path) == ["a.yaml", "b.json"], "all of them or none"
    folder.save_together({"c.yaml": b"3", "b.json": b"4"}, replace=True)
    assert names(tmp_path) == ["a.yaml", "b.json", "c.yaml"]
    assert (tmp_path / "b.json").read_bytes() == b"4"


def test_no_room_for_the_second_of_two_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, write, written = OutputFolder(tmp_path), OutputFolder._write, 0

    def fails(self: OutputFolder, content: bytes) -> Path:
        nonlocal written
        written += 1
        if written == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(self, content)

    monkeypatch.setattr(OutputFolder, "_write", fails)
    with pytest.raises(UserError, match="No space left"):
        folder.save_together({"a": b"1", "b": b"2"}, replace=True)
    assert names(tmp_path) == []


@pytest.mark.parametrize("prompt", ["a red apple", "ein Löwe, \N{EURO SIGN}"])
def test_what_a_file_says_of_itself_is_under_keys_of_its_own(prompt: str) -> None:
    """What is under "prompt" and "workflow" is read as JSON by ComfyUI."""
    data = Writing().file(Image.new("RGB", (8, 8)), prompt, {"prompt": prompt}, "mark")
    with Image.open(io.BytesIO(data)) as image:
        assert image.info.keys() == {CHUNK, "Description", "parameters", JOB_CHUNK}
        assert image.info["Description"] == prompt
