"""The captions say what is drawn, the same way for the same seed."""

from __future__ import annotations

import numpy as np
import pytest

from scripts.builtin.captions import (
    STYLE_DROPPED,
    STYLE_PHRASES,
    STYLED,
    Row,
    all_texts,
    article,
    caption,
    captions_of,
    compose,
    prompt,
    words_for,
)


def sampled(row: Row, number: int, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    return [caption(row, rng) for _ in range(number)]


def test_the_same_seed_gives_the_same_captions(rows: list[Row]) -> None:
    for row in rows:
        assert sampled(row, 50) == sampled(row, 50)
        assert sampled(row, 50) != sampled(row, 50, seed=1)


def test_a_caption_leaves_the_generator_where_any_other_would(rows: list[Row]) -> None:
    left = []
    for row in rows:
        rng = np.random.default_rng(7)
        caption(row, rng)
        left.append(rng.random())
    assert len(set(left)) == 1


@pytest.mark.parametrize("style", STYLE_PHRASES)
def test_the_style_is_dropped_as_often_as_promised(rows: list[Row], style: str) -> None:
    captions = sampled(rows[0] | {"style": style}, 2000)
    dropped = sum(STYLE_PHRASES[style] not in text for text in captions) / len(captions)
    # Four standard deviations of the mean of 2,000 draws.
    deviation = (STYLE_DROPPED[style] * (1 - STYLE_DROPPED[style]) / len(captions)) ** 0.5
    assert dropped == pytest.approx(STYLE_DROPPED[style], abs=4 * deviation)


def test_a_caption_never_names_another_style(rows: list[Row]) -> None:
    for row in rows:
        others = [phrase for style, phrase in STYLE_PHRASES.items() if style != row["style"]]
        assert not any(phrase in text for text in sampled(row, 300) for phrase in others)


def test_the_wordings_people_try_all_occur(rows: list[Row]) -> None:
    captions = set(sampled(rows[0], 5000))
    assert {
        "red apple",
        "a red apple",
        "apple",
        "an apple",
        "a red apple, flat style",
        "apple, flat style",
        "a flat style red apple",
        "flat style, an apple",
        "an apple in flat style",
        "apple emoji, flat style",
        "an icon of an apple",
    } <= captions
    assert not any("  " in text or text != text.strip() for text in captions)


def test_every_sampled_caption_says_a_name_of_its_concept(rows: list[Row]) -> None:
    for row in rows:
        names = words_for(row["concept"])
        assert all(any(name in text for name in names) for text in sampled(row, 200))


def test_the_weights_of_the_styled_forms_are_a_whole() -> None:
    assert sum(weight for _, weight in STYLED) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("red apple", "a "),
        ("octopus", "an "),
        ("unicorn", "a "),
        ("hourglass", "an "),
        ("ufo", "a "),
        ("suv", "an "),
        ("bus", "a "),
        ("cactus", "a "),
        ("cross", "a "),
        ("sunglasses", ""),
        ("bread", ""),
        ("clapping hands", ""),
        ("face with tears of joy", "a "),
        ("monkey covering its eyes", "a "),
        ("skull and crossbones", "a "),
        ("sun", "the "),
    ],
)
def test_names_take_their_article(name: str, expected: str) -> None:
    assert article(name) == expected


def test_the_article_goes_with_what_it_stands_before() -> None:
    def one(name: str, style: str | None, form: str = "", wrapper: str | None = None) -> str:
        return compose(name, style, articled=True, form=form, wrapper=wrapper)

    assert one("octopus", "flat style", "{style} {name}") == "a flat style octopus"
    assert one("sunglasses", "flat style", "{style} {name}") == "flat style sunglasses"
    assert one("eyes", None, wrapper="{name} emoji") == "an eyes emoji"
    assert (
        one("octopus", "flat style", "{style} {name}", "an icon of {a}")
        == "an icon of an octopus, flat style"
    )


def test_the_plain_prompt(rows: list[Row]) -> None:
    assert prompt(rows[0]) == "a red apple, flat style"
    assert prompt(rows[3]) == "an octopus, shaded style"


def test_all_texts_are_each_there_once_in_a_fixed_order(rows: list[Row]) -> None:
    texts = all_texts(rows)
    assert texts == all_texts(rows)
    assert len(texts) == len(set(texts))
    assert "thing" in texts
    assert "green apple" in texts
    assert {text for row in rows for text in captions_of(row)} <= set(texts)
