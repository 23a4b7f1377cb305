"""Composed pictures show what their captions say, and never what is held out."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from scripts.builtin import compositions
from scripts.builtin.captions import STYLE_PHRASES, Combinations, Row
from scripts.builtin.compositions import COLOURS, PAIR, Composer, background, paste
from scripts.builtin.dataset import SIZE

RED, GREEN = (200, 0, 0), (0, 120, 0)


def row(concept: str, style: str) -> Row:
    return {"id": f"{concept}.{style}", "concept": concept, "style": style}


ROWS = [row(concept, style) for concept in ("red apple", "octopus") for style in STYLE_PHRASES]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Apples are red squares and octopuses green ones, in the middle of nothing."""
    images = np.full((len(ROWS), SIZE, SIZE, 3), 255, np.uint8)
    coverage = np.zeros((len(ROWS), SIZE, SIZE), np.uint8)
    for number, its in enumerate(ROWS):
        images[number, 32:96, 32:96] = RED if its["concept"] == "red apple" else GREEN
        coverage[number, 32:96, 32:96] = 255
    np.save(tmp_path / "images.npy", images)
    np.save(tmp_path / "coverage.npy", coverage)
    (tmp_path / "index.jsonl").write_text("".join(json.dumps(each) + "\n" for each in ROWS))
    return tmp_path


def test_a_half_covered_pixel_is_a_mixture() -> None:
    page = background((100, 50, 200))
    drawing = np.full((SIZE, SIZE, 3), 255, np.uint8)
    drawing[:] = (155, 128, 128)  # (55, 1, 1) at half coverage on white
    paste(page, drawing, np.full((SIZE, SIZE), 128, np.uint8), SIZE, 0, 0)
    assert np.allclose(page[5, 5], (77.5, 25.5, 100.6), atol=1)


def test_what_is_not_covered_shows_the_page() -> None:
    page = background((100, 50, 200))
    paste(page, np.full((SIZE, SIZE, 3), 255, np.uint8), np.zeros((SIZE, SIZE), np.uint8), 64, 0, 0)
    assert (page == (100, 50, 200)).all()


def ground(caption: str) -> str | None:
    """The colour that a caption names beside its drawings."""
    words = re.findall(r"\w+", caption.replace("red apple", ""))
    return next((word for word in reversed(words) if word in COLOURS), None)


def test_pictures_and_captions_agree(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compositions, "ALIAS_USED", 0)
    composer = Composer(data, ROWS)
    rng = np.random.default_rng(0)
    kinds = set()
    for _ in range(200):
        result = composer.draw(rng)
        middle = SIZE // 2
        places = {"one": (middle, middle), "left": (middle, PAIR // 2)}
        places["right"] = (middle, SIZE - PAIR // 2)
        colour = {"red apple": RED, "octopus": GREEN}
        if "apple" in result.caption and "octopus" in result.caption:
            kinds.add("pair")
            apple_first = result.caption.index("apple") < result.caption.index("octopus")
            order = ["red apple", "octopus"] if apple_first else ["octopus", "red apple"]
            for place, concept in zip(("left", "right"), order, strict=True):
                assert tuple(result.picture[places[place]]) == colour[concept], result.caption
        else:
            kinds.add("one")
            concept = "octopus" if "octopus" in result.caption else "red apple"
            assert tuple(result.picture[places["one"]]) == colour[concept]
            assert ground(result.caption)
        corner = result.picture[0, 0].astype(int)
        name = ground(result.caption)
        if name:
            assert np.abs(corner - COLOURS[name]).max() <= compositions.JITTER
        else:
            assert (corner == 255).all()
    assert kinds == {"one", "pair"}


def test_the_same_state_draws_the_same(data: Path) -> None:
    composer = Composer(data, ROWS)
    first, second = (composer.draw(np.random.default_rng(4)) for _ in range(2))
    assert first.caption == second.caption
    assert np.array_equal(first.picture, second.picture)


def test_held_out_combinations_are_never_drawn(data: Path) -> None:
    composer = Composer(data, ROWS)
    composer.held_out = Combinations(
        frozenset([frozenset(("red apple", "octopus"))]),
        frozenset(("octopus", colour) for colour in COLOURS if colour != "blue"),
    )
    rng = np.random.default_rng(0)
    for _ in range(100):
        caption = composer.draw(rng).caption
        assert "apple" not in caption or "octopus" not in caption
        assert "octopus" not in caption or ground(caption) == "blue"


def test_compositions_are_as_large_as_their_drawings(data: Path, tmp_path: Path) -> None:
    large = tmp_path / "large"
    large.mkdir()
    for name in ("images.npy", "coverage.npy"):
        np.save(large / name, np.load(data / name).repeat(2, axis=1).repeat(2, axis=2))
    (large / "index.jsonl").write_text((data / "index.jsonl").read_text())
    for seed in range(8):
        small = Composer(data, ROWS).draw(np.random.default_rng(seed))
        twice = Composer(large, ROWS).draw(np.random.default_rng(seed))
        assert twice.caption == small.caption
        assert twice.picture.shape == (2 * SIZE, 2 * SIZE, 3)
        apart = np.abs(twice.picture[::2, ::2].astype(int) - small.picture.astype(int))
        assert (apart > 2).mean() < 0.02  # at the edges of what was put there
