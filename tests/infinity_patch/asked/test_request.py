"""Which prompts speak of people, and what is added to them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from scalekv.configs import model_named
from scalekv.infinity_patch import Request, check
from scalekv.infinity_patch.asked.request import SUFFIX, mentions_people, with_suffix
from scalekv.kv.errors import UserError


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


def test_what_python_has_for_the_same() -> None:
    plain = Request(("a fox",), seed=3, cfg=(1.0, 2.0), top_p=0.5)
    assert Request("a fox").pictures == 1
    for prompts in ("a fox", ["a fox"], iter(["a fox"])):
        asked = Request(
            prompts,  # type: ignore[arg-type]
            seed=np.int64(3),  # type: ignore[arg-type]
            cfg=np.array([1, 2], np.float32),  # type: ignore[arg-type]
            top_p=np.float32(0.5),  # type: ignore[arg-type]
        )
        assert (asked, hash(asked)) == (plain, hash(plain))
    assert Request("a", num_images=2, seeds=[1, np.int32(2)]).seeds == (1, 2)  # type: ignore[list-item]


@pytest.mark.parametrize(
    "asked", [{"prompts": 3}, {"prompts": ["a", None]}, {"seed": 1.5}, {"seeds": ("a",)}]
)
def test_what_cannot_be_meant(asked: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        Request(**{"prompts": "a fox", **asked})


@pytest.mark.parametrize(("budget", "fix"), [(0.1, '"10%"'), (0.25, '"25%"'), (True, '"10%"')])
def test_a_budget_that_does_not_say_of_what(budget: Any, fix: str) -> None:
    with pytest.raises(UserError) as refused:
        check(Request("a fox", budget=budget), model_named("emoji"))
    assert refused.value.fix == f"budget={fix}"


def test_a_negative_prompt_needs_guidance() -> None:
    check(Request("a fox", negative="a leaf"), model_named("emoji"))
    check(Request("a fox", negative="a leaf", cfg=(1, 1, 1, 1, 1, 1, 2)), model_named("emoji"))
    for off in (1, 1.0, (1,) * 7):
        with pytest.raises(UserError, match="guidance is off"):
            check(Request("a fox", negative="a leaf", cfg=off), model_named("emoji"))
