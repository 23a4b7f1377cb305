"""`scalekv grid`, and the sheets it draws."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from scalekv.cli.pictures.settings import read_picture
from scalekv.cli.pictures.sheet import GAP, LINE, PictureGroup, contact_sheet
from tests.cli.conftest import Outcome, StandIn

Program = Callable[..., Outcome]


def listed(sheet: str) -> list[str]:
    """Names of the pictures that a sheet says are on it."""
    with Image.open(sheet) as image:
        assert isinstance(image, PngImageFile)
        names: list[str] = json.loads(image.text["scalekv-sheet"])["pictures"]
        return names


@pytest.fixture
def run_folder(scalekv: Program, stand_in: StandIn) -> Path:
    """What a run of four pictures leaves, and a file that is no picture."""
    assert scalekv("generate", "an owl", "a fox", "-n", "2", "--quiet").code == 0
    Path("out/broken.png").write_bytes(b"no picture")
    return Path("out")


def test_a_run(scalekv: Program, run_folder: Path) -> None:
    done = scalekv("grid", "out", "--across", "3")
    assert (done.code, done.out) == (0, "out/grid.png\n")
    assert done.err == "not drawn: cannot read out/broken.png: it is no picture\n"
    with Image.open("out/grid.png") as sheet:
        assert sheet.size == (3 * (8 + 2 * GAP), 2 * (8 + LINE + 2 * GAP))
        places = [GAP + 4 + number * (8 + 2 * GAP) for number in range(3)]
        shown = [sheet.getpixel((x, GAP // 2 + 4)) for x in places]
    names = ["0-an-owl.png", "1-an-owl.png", "2-a-fox.png", "3-a-fox.png"]
    assert shown == [read_picture(run_folder / name).image.getpixel((4, 4)) for name in names[:3]]
    assert len(set(shown)) == 3
    assert listed("out/grid.png") == names


def test_sheets_are_not_drawn_again(scalekv: Program, run_folder: Path) -> None:
    scalekv("grid", "out")
    done = scalekv("grid", "out", "--json", "--quiet")
    assert (done.code, done.err) == (0, "")
    facts = json.loads(done.out)
    assert (facts["sheets"], facts["pictures"]) == (["out/grid-2.png"], 4)
    assert "broken.png" in facts["skipped"][0]


def test_pages(scalekv: Program, run_folder: Path) -> None:
    done = scalekv("grid", "out", "--per-page", "3", "--out", "sheets", "--label", "seed")
    assert done.out == "sheets/grid.png\nsheets/grid-2.png\n"


def test_names_with_numbers_are_in_their_order(scalekv: Program) -> None:
    Path("p").mkdir()
    for name in ("10-b.png", "9-a.png", "x.jpg"):
        Image.new("RGB", (4, 4)).save(f"p/{name}")
    assert scalekv("grid", "p", "--label", "name").code == 0
    assert listed("p/grid.png") == ["9-a.png", "10-b.png", "x.jpg"]


@pytest.mark.parametrize("folder", ["empty", "nowhere", "file"])
def test_nothing_to_draw(scalekv: Program, folder: str) -> None:
    Path("empty").mkdir()
    Path("file").write_text("")
    done = scalekv("grid", folder)
    assert (done.code, done.out) == (2, "")
    assert folder in done.err
    assert sorted(p.name for p in Path().iterdir()) == ["empty", "file"]


def test_a_folder_that_cannot_be_written_to(scalekv: Program, run_folder: Path) -> None:
    done = scalekv("grid", "out", "--out", "out/broken.png")
    assert done.code == 2
    assert "cannot write" in done.err


def test_groups_and_labels() -> None:
    red, blue = Image.new("RGB", (40, 20), "red"), Image.new("RGB", (40, 20), "blue")
    groups = [
        PictureGroup((red, blue), "one", ("", "20 dB")),
        PictureGroup((blue, red), "schön " * 30),
    ]
    sheet = contact_sheet(groups, across=2, side=20, labels=("full", "10%"))
    width = 2 * (2 * 20 + 2 * GAP)
    assert sheet.size == (width, LINE + 2 + 10 + 2 * LINE + 2 * GAP)
    row = LINE + 2 + GAP // 2 + 5
    near = [sheet.getpixel((x, row)) for x in (GAP + 10, GAP + 30, GAP + 30 + 2 * GAP + 20)]
    assert near == [(255, 0, 0), (0, 0, 255), (0, 0, 255)]
    assert {sheet.getpixel((x, 0)) for x in range(width)} == {(255, 255, 255)}
