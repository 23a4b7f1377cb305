"""Lines of words: cut at once however long, drawn with fonts that have them, told apart."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from PIL import Image, ImageChops

from scalekv.cli.pictures import words
from scalekv.cli.pictures.sheet import PictureGroup, contact_sheet
from tests.cli.conftest import StandIn
from tests.cli.test_grid import Program

PICTURE = Image.new("RGB", (192, 32), "red")


@pytest.mark.parametrize("text", ["a very long prompt " * 5000, "x" * 100_000, "猫" * 4000])
def test_a_long_line_is_cut_at_once(text: str) -> None:
    start = time.perf_counter()
    shown = words.cut(text, 192)
    assert time.perf_counter() - start < 2
    assert shown.endswith("…")
    assert words.length(shown) <= 192
    more = text[: len(shown)].rstrip() + "…"
    assert words.length(more) > 192, "no more would fit"


def test_what_fits_stays_and_a_tail_is_kept() -> None:
    assert words.cut(" a  red\napple ", 192) == "a red apple"
    text = words.cut("a red apple on a table of old wood in the sun", 192, " · seed 7")
    assert text.endswith("… · seed 7")
    assert words.length(text) <= 192
    assert words.cut("a red apple", 20, " · seed 7") == "a…"


def shown(*groups: PictureGroup) -> list[Image.Image]:
    """What is written below each of the groups."""
    sheet = contact_sheet(groups, across=1, side=192)
    height = sheet.height // len(groups)
    return [
        sheet.crop((0, n * height + 35, sheet.width, (n + 1) * height)) for n in range(len(groups))
    ]


def test_equal_prompts_are_told_apart() -> None:
    long = "a very long prompt that nobody can read to its end on a sheet"
    for caption, tells in (
        ("an owl", [("seed 1",), ("seed 2",)]),
        (long, [("seed 1",), ("seed 2",)]),
        ("an owl", [("seed 1", "1-an-owl"), ("seed 1", "1-an-owl-2")]),
    ):
        one, two = shown(*(PictureGroup((PICTURE,), caption, tells=t) for t in tells))
        assert ImageChops.difference(one, two).getbbox(), caption
    alone, _ = shown(*(PictureGroup((PICTURE,), c, tells=("seed 1",)) for c in ("a", "b")))
    plain, _ = shown(*(PictureGroup((PICTURE,), c) for c in ("a", "b")))
    assert not ImageChops.difference(alone, plain).getbbox(), "nothing is added without need"


@pytest.fixture
def no_fonts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with no font but the one that comes with Pillow."""
    monkeypatch.setattr(words, "WIDE_FONTS", ())
    monkeypatch.setattr(words, "fonts_with", lambda _: [])
    words._face.cache_clear()


def test_a_font_that_has_a_character_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(words, "WIDE_FONTS", ("none.ttf",))

    def fonts_with(character: str) -> list[str]:
        asked.append(character)
        return ["DejaVuSans.ttf"]

    monkeypatch.setattr(words, "fonts_with", fonts_with)
    words._face.cache_clear()
    face = words._face("☃")
    if face is None:
        pytest.skip("no DejaVu Sans on this machine")
    assert (asked, face.has("☃"), face.has("猫")) == (["☃"], True, False)
    assert [part for _, part in words._parts("a ☃ b")] == ["a ", "☃ ", "b"]
    words._face.cache_clear()


@pytest.mark.usefixtures("no_fonts")
def test_what_no_font_has_is_said_once(scalekv: Program, stand_in: StandIn) -> None:
    assert words.undrawn(["a 猫", "猫🐸 e\n"]) == "猫🐸"
    assert scalekv("generate", "a 猫", "two 猫", "🐸", "--quiet").code == 0
    done = scalekv("grid", "out", "--per-page", "1")
    assert done.code == 0
    assert done.err.count("no font of this machine has 猫🐸") == 1
    assert scalekv("grid", "out", "--quiet").err == ""
    assert Path("out/grid-4.png").exists()
    words._face.cache_clear()
