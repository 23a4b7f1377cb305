"""Which prompts speak of people, and what is added to them."""

from __future__ import annotations

import pytest

from scalekv.infinity_patch import Request
from scalekv.infinity_patch.asked.request import SUFFIX, mentions_people, with_suffix


@pytest.mark.parametrize(
    "prompt",
    ["A man in a hat", "two WOMEN", "children, playing", "grandmother's house", "a portrait"],
)
def test_people(prompt: str) -> None:
    assert mentions_people(prompt)
    assert with_suffix(prompt) == prompt + SUFFIX


@pytest.mark.parametrize("prompt", ["a mandarin", "a German shepherd", "season", "ebony", "an owl"])
def test_no_people(prompt: str) -> None:
    assert with_suffix(prompt) == prompt


def test_the_suffix_follows_the_last_word() -> None:
    assert with_suffix("A girl reads. ") == "A girl reads" + SUFFIX


def test_off_by_default() -> None:
    assert Request(("a man",)).text_of("a man") == "a man"
    assert Request(("a man",), positive_prompt=True).text_of("a man") == "a man" + SUFFIX
