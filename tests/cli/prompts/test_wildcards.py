"""Wildcards: what is drawn, from where, and what is no template."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalekv.cli.prompts.wildcards import BadTemplate, Wildcards, escaped, looks_like_template
from scalekv.kv.errors import UserError


def lists(folder: Path, **files: str) -> Wildcards:
    for name, text in files.items():
        path = folder / f"{name.replace('__', '/')}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return Wildcards(folder)


def test_the_same_seed_draws_the_same_on_every_machine() -> None:
    drawn = [Wildcards().draw("a {red|blue|green} {owl|fox}", seed) for seed in range(6)]
    assert drawn == [
        "a green owl",
        "a green owl",
        "a blue owl",
        "a green fox",
        "a red owl",
        "a green owl",
    ]


def test_every_alternative_comes_up_as_often_as_its_weight_says() -> None:
    count = Counter(Wildcards().draw("{3::red|blue}", seed) for seed in range(2000))
    assert set(count) == {"red", "blue"}
    assert 1400 < count["red"] < 1600
    assert {Wildcards().draw("{0::red|blue}", seed) for seed in range(50)} == {"blue"}


def test_inside_one_another_and_nothing_at_all() -> None:
    template = "an owl{| on a {red|blue} {chair|box}}"
    drawn = {Wildcards().draw(template, seed) for seed in range(200)}
    assert drawn == {"an owl"} | {
        f"an owl on a {colour} {thing}" for colour in ("red", "blue") for thing in ("chair", "box")
    }


def test_lists(tmp_path: Path) -> None:
    cards = lists(tmp_path, animal="# animals\nan owl\n\n a __colour__ fox \n", colour="red\nblue")
    drawn = {cards.draw("__animal__ at night", seed) for seed in range(100)}
    assert drawn == {f"{what} at night" for what in ("an owl", "a red fox", "a blue fox")}


def test_lists_in_folders(tmp_path: Path) -> None:
    assert lists(tmp_path, birds__small="a wren").draw("__birds/small__", 1) == "a wren"


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("a {red|blue", ["{ is not closed", r"\{"]),
        ("a red} fox", ["} closes nothing"]),
        ("{" * 100_000, ["braces are more than 20 deep"]),
        ("{0::a|0::b}", ["all weights are 0"]),
        ("{|}", ["nothing is left"]),
        ("__aminal__", ["no list", "lists here: animal, loop", "did you mean animal"]),
        ("__loop__", ["leads back to itself"]),
        ("__../secret__ __etc__", ["no list"]),
    ],
)
def test_what_is_no_template(tmp_path: Path, template: str, words: list[str]) -> None:
    cards = lists(tmp_path, animal="an owl", loop="__loop__")
    with pytest.raises(BadTemplate) as refused:
        cards.draw(template, 0)
    told = " ".join((refused.value.what, refused.value.rule, refused.value.fix))
    for word in words:
        assert word in told


def test_a_list_without_a_folder() -> None:
    with pytest.raises(BadTemplate, match="no folder of lists"):
        Wildcards().draw("__animal__", 0)
    with pytest.raises(UserError, match="no folder nowhere"):
        Wildcards.of("nowhere", "--wildcards")
    assert Wildcards.of("off", "") is None


@given(st.text(min_size=1).filter(lambda text: text == text.strip() != ""))
def test_an_escaped_prompt_is_drawn_as_it_stands(prompt: str) -> None:
    assert Wildcards().draw(escaped(prompt), 7) == prompt


def test_what_looks_like_a_template() -> None:
    assert looks_like_template("a {red|blue} fox")
    assert looks_like_template("an __animal__")
    for prompt in ("a {b} c", "a | b", "snake__case", "{", "__", "a fox"):
        assert not looks_like_template(prompt)
