"""The prompts to evaluate with: fixed, new to the model, and many enough."""

from __future__ import annotations

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
