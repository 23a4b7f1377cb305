"""What is held out stays out, and the committed lists hold what they say."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from scripts.builtin.captions import (
    FIRST_STYLES,
    HELD_OUT_FILE,
    HeldOut,
    Names,
    Row,
    compositions_held_out,
    heldout_rows,
    load_heldout,
    load_names,
    training_rows,
)
from scripts.builtin.compositions import COLOURS
from scripts.builtin.dataset import DEFAULT_FOLDER, load_rows


def test_trainings_see_neither_held_out_concepts_nor_styles(rows: list[Row]) -> None:
    assert [row["id"] for row in training_rows(rows)] == [
        "red apple.flat",
        "red apple.noto",
        "octopus.flat",
        "octopus.noto",
        "backpack.flat",
    ]


def test_every_row_is_trained_on_or_held_out(rows: list[Row]) -> None:
    assert len(training_rows(rows)) + len(heldout_rows(rows)) == len(rows)
    assert [row["id"] for row in heldout_rows(rows)] == [
        "green apple.flat",
        "green apple.noto",
        "backpack.noto",
    ]


def test_the_committed_list_is_long_enough_and_says_nothing_twice() -> None:
    listed = yaml.safe_load(HELD_OUT_FILE.read_text(encoding="utf-8"))
    assert set(listed) == {"concepts", "styles", "combinations"}
    assert set(listed["styles"]) == set(FIRST_STYLES)
    for names in (listed["concepts"], *listed["styles"].values()):
        assert all(isinstance(name, str) and name == name.lower() for name in names)
        assert len(names) == len(set(names))
    held_out = load_heldout()
    assert len(held_out.concepts) >= 60
    assert len(held_out.concepts) * len(FIRST_STYLES) + len(held_out.styles) >= 200


def test_held_out_compositions_are_of_drawings_a_training_sees() -> None:
    pairs, backgrounds = compositions_held_out()
    assert len({frozenset(pair) for pair in pairs}) == len(pairs)
    assert len(set(backgrounds)) == len(backgrounds)
    assert {colour for _, colour in backgrounds} <= set(COLOURS)
    named = {concept for pair in pairs for concept in pair} | {name for name, _ in backgrounds}
    held_out = load_heldout()
    assert not named & held_out.concepts
    assert not {(name, "flat") for name in named} & held_out.styles


def test_the_committed_list_leaves_what_people_try_first() -> None:
    first = {"red apple", "cat", "dog", "octopus", "red heart", "umbrella", "automobile", "house"}
    first |= {"deciduous tree", "star", "rocket", "pizza", "guitar", "smiling face with sunglasses"}
    held_out = load_heldout()
    assert not first & (held_out.concepts | {concept for concept, _ in held_out.styles})


def test_no_alias_names_a_held_out_concept() -> None:
    aliases = {word for words in load_names().aliases.values() for word in words}
    assert not aliases & load_heldout().concepts


def test_the_committed_lists_fit_the_built_data_set() -> None:
    if not (DEFAULT_FOLDER / "index.jsonl").is_file():
        pytest.skip("the data set is not built here")
    built = load_rows()
    concepts = {row["concept"] for row in built}
    load_names().check(concepts)
    load_heldout().check(concepts, set(FIRST_STYLES))
    held_out = load_heldout()
    pairs, backgrounds = compositions_held_out()
    assert {concept for pair in pairs for concept in pair} <= concepts
    assert {concept for concept, _ in backgrounds} <= concepts
    for row in built:
        assert row["heldout_concept"] == (row["concept"] in held_out.concepts)
        assert row["heldout_style"] == held_out.style_of(row["concept"], row["style"])


@pytest.mark.parametrize(
    ("concepts", "styles", "message"),
    [
        ({"cat", "unicat"}, set(), "not in the data set: unicat"),
        (set(), {("cat", "oily")}, r"not in the data set: cat \(oily\)"),
        (set(), {("unicat", "flat")}, r"not in the data set: unicat \(flat\)"),
        ({"cat"}, {("cat", "flat")}, "not by style: cat"),
        (set(), {("cat", "flat"), ("cat", "noto")}, "not by style: cat"),
    ],
)
def test_a_wrong_entry_is_refused(
    concepts: set[str], styles: set[tuple[str, str]], message: str
) -> None:
    held_out = HeldOut(frozenset(concepts), frozenset(styles))
    with pytest.raises(ValueError, match=message):
        held_out.check({"cat", "dog"}, {"flat", "noto"})


@pytest.mark.parametrize(
    ("aliases", "bare", "wrong"),
    [
        ({"unicat": ("kitty",)}, set(), "unicat"),
        ({"cat": ("dog",)}, set(), "dog"),
        ({"cat": ("pet",), "dog": ("pet",)}, set(), "pet"),
        ({"cat": ("kitty",)}, {"milk"}, "milk"),
    ],
)
def test_a_word_for_nothing_or_for_two_is_refused(
    aliases: dict[str, tuple[str, ...]], bare: set[str], wrong: str
) -> None:
    names = Names(frozenset(), frozenset(), {}, aliases, frozenset(), frozenset(bare))
    with pytest.raises(ValueError, match=f": {wrong}$"):
        names.check({"cat", "dog"})


def test_a_list_is_read_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "heldout.yaml"
    path.write_text("concepts: [owl]\nstyles:\n  flat: [cat]\n  noto: [dog, bat]\n")
    assert load_heldout(path) == HeldOut(
        frozenset({"owl"}), frozenset({("cat", "flat"), ("dog", "noto"), ("bat", "noto")})
    )
