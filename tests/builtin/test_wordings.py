"""Loose wordings: the name is in them, and they are about no other drawing."""

from __future__ import annotations

import numpy as np

from scripts.builtin.captions import Row
from scripts.builtin.wordings import FILLERS, Wordings
from scripts.evaluate.prompts import free_prompts


def row(concept: str, style: str = "flat") -> Row:
    return {"concept": concept, "style": style, "heldout_concept": False, "heldout_style": False}


def many(wordings: Wordings, of: Row, number: int = 400) -> list[str]:
    rng = np.random.default_rng(0)
    return [wordings.draw(of, rng) for _ in range(number)]


def test_the_name_is_in_every_wording_and_other_words_are_too() -> None:
    drawn = many(Wordings([row("wombat")]), row("wombat"))
    assert all("wombat" in text for text in drawn)
    assert len(set(drawn)) > 300
    beside = {word for text in drawn for word in text.replace(",", "").split()}
    assert len(beside & set(FILLERS)) > 60


def test_the_same_state_draws_the_same() -> None:
    wordings = Wordings([row("wombat")])
    assert many(wordings, row("wombat"), 20) == many(wordings, row("wombat"), 20)


def test_no_filler_makes_another_name() -> None:
    rows = [row("large diamond"), row("small diamond"), row("wombat")]
    wordings = Wordings(rows)
    for text in many(wordings, rows[0]):
        assert "small" not in text.split()
        assert "large diamond" in text
    assert any("small" in text.split() for text in many(wordings, rows[2]))


def test_styles_are_told_apart() -> None:
    wordings = Wordings([row("wombat")])
    flat, noto = (many(wordings, row("wombat", style)) for style in ("flat", "noto"))
    assert not any("shade" in text for text in flat)
    assert not any("flat" in text for text in noto)
    assert sum("shade" in text for text in noto) > 0.8 * len(noto)


def test_the_free_prompts_of_the_evaluation_are_not_made() -> None:
    """Two of them would be: "orange cat" and "yellow banana" are names."""
    names = ["house", "rocket", "dog", "banana", "pizza", "cat", "guitar", "owl"]
    wordings = Wordings([row(name) for name in names])
    drawn = {text for name in names for text in many(wordings, row(name), 1000)}
    assert not drawn & set(free_prompts())
