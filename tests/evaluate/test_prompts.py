"""The prompts to evaluate with: fixed, new to the model, and many enough."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scalekv.kv.errors import UserError
from scripts.builtin.captions import (
    STYLE_PHRASES,
    compose,
    compositions_held_out,
    load_heldout,
    words_for,
)
from scripts.builtin.compositions import COLOURS
from scripts.evaluate.contact_sheet import held_out
from scripts.evaluate.prompts import (
    composed_prompts,
    drawing_prompts,
    free_prompts,
    heldout_prompts,
    other_style_prompts,
    read_prompts,
)


def test_there_are_over_two_hundred_and_each_once() -> None:
    prompts = heldout_prompts()
    assert len(prompts) == len(set(prompts)) >= 200
    assert len(free_prompts()) == 64
    held_out = load_heldout()
    assert len(drawing_prompts()) == 2 * len(held_out.concepts) + len(held_out.styles)


def test_the_free_prompts_are_in_no_captions_wording() -> None:
    free = set(free_prompts())
    assert not free & {*composed_prompts(), *drawing_prompts()}
    concepts = {word for pair in compositions_held_out()[0] for word in pair}
    captions = {
        compose(name, style, articled=articled, form="{a}, {style}", wrapper=None)
        for concept in concepts
        for name in words_for(concept)
        for articled in (True, False)
        for style in (None, *STYLE_PHRASES.values())
    }
    assert not free & captions


def test_composed_prompts_name_a_colour_or_join_two() -> None:
    for prompt in composed_prompts():
        coloured = prompt.endswith(" background") and prompt.split()[-2] in COLOURS
        assert coloured or " and " in prompt


def test_the_contact_sheet_shows_held_out_prompts_of_each_kind() -> None:
    shown = held_out()
    assert len(shown) == len(set(shown)) == 48
    assert set(shown) <= set(heldout_prompts())
    assert set(shown) & set(other_style_prompts())
    known = {f"{concept}, {STYLE_PHRASES[style]}" for concept, style in load_heldout().styles}
    assert len(other_style_prompts()) == len(known)
    assert all(
        text.removeprefix("a ").removeprefix("an ").removeprefix("the ") in known
        for text in other_style_prompts()
    )


def test_a_file_of_lines(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("a cat\n\n  two dogs  \n", encoding="utf-8")
    assert read_prompts(path) == ["a cat", "two dogs"]


def test_coco_captions_one_a_picture_in_order_of_pictures(tmp_path: Path) -> None:
    path = tmp_path / "captions.json"
    rows = [
        {"image_id": 9, "id": 3, "caption": "A dog. "},
        {"image_id": 2, "id": 8, "caption": "second"},
        {"image_id": 2, "id": 7, "caption": "first"},
    ]
    path.write_text(json.dumps({"annotations": rows}))
    assert read_prompts(path) == ["first", "A dog."]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("none.txt", None, "cannot read the prompts"),
        ("empty.txt", "\n\n", "no prompt"),
        ("list.json", "[1]", "not a file of COCO captions"),
        ("other.json", '{"annotations": [{"id": 1}]}', "not a file of COCO captions"),
    ],
)
def test_files_that_are_none(tmp_path: Path, name: str, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message):
        read_prompts(tmp_path / name)
