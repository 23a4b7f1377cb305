"""Names of a batch's pictures: from a template, and never outside their folder."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalekv.cli.pictures.names import (
    BATCH_TEMPLATE,
    NameTemplate,
    broken_rule,
    same_file,
    slug,
)
from scalekv.kv.errors import UserError

PICTURE = {"index": 5, "seed": 17, "line": 9, "image": 1, "policy": "scalekv", "budget": "10%"}


@pytest.mark.parametrize(
    ("template", "name"),
    [
        (BATCH_TEMPLATE, "00005-17-a-red-apple"),
        (BATCH_TEMPLATE + ".png", "00005-17-a-red-apple"),
        ("{slug:.5}_{line}_{image:d}", "a-red_9_1"),
        ("{{x}} {seed:3}", "{x}  17"),
        ("{slug}-{policy}-{budget}", "a-red-apple-scalekv-10%"),
    ],
)
def test_templates(template: str, name: str) -> None:
    assert NameTemplate(template).name("a-red-apple", **PICTURE) == name  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "template",
    [
        "{index.__class__}",
        "{0}",
        "{}",
        "{prompt}",
        "{index!r}",
        "{index:999999999d}",
        "{seed:{index}}",
        "{slug:>99}",
        "{index",
        "../{index}",
        "pictures/{index}",
        "/{index}",
        ".{index}",
        "",
        ".png",
        "report",
        "{index}.jpg",
        "{index}\n",
    ],
)
def test_templates_that_are_refused(template: str) -> None:
    with pytest.raises(UserError, match="names no files") as refusal:
        NameTemplate(template)
    assert refusal.value.where == "--name"


@given(st.text(), st.integers(0, 2**63 - 1), st.integers(0, 10**9))
def test_whatever_the_prompt_the_name_is_a_plain_one(prompt: str, seed: int, index: int) -> None:
    template = NameTemplate(BATCH_TEMPLATE)
    name = template.name(
        slug(prompt), index=index, seed=seed, line=1, image=0, policy="x:../a.pt", budget=prompt
    )
    assert broken_rule(name) == ""


def test_names_that_some_file_systems_take_for_one() -> None:
    assert same_file("Owl") == same_file("owl")
    assert same_file("caf\u00e9") == same_file("cafe\u0301")
    assert same_file("owl") != same_file("owls")
