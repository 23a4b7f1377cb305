"""`scalekv plan --cards`: every released model on every card."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from scalekv.infinity_patch.planning.cards import CARDS
from tests.cli.conftest import Outcome

Program = Callable[..., Outcome]


def test_every_released_model_is_planned_for(scalekv: Program) -> None:
    figures = json.loads(scalekv("plan", "--cards", "--json").out)
    names = [model["model"] for model in figures["models"]]
    assert {"emoji", "infinity-2b", "infinity-8b"} <= set(names)
    assert "infinity-20b" not in names
    assert figures["cards_bytes"] == [size * 10**9 for size in CARDS]
    out = scalekv("plan", "--cards").out.splitlines()
    rows = {line.split()[0]: line.split()[1:] for line in out if line.startswith(tuple(names))}
    assert rows["emoji"] == ["full"] * len(CARDS)
    of_8b = {m["model"]: m["cards"] for m in figures["models"]}["infinity-8b"]
    assert rows["infinity-8b"][0] == f"{int(100 * of_8b[0]['share'])}%"


@pytest.mark.parametrize("other", [("--check",), ("--fit", "batch"), ("--gpu-memory", "24GB")])
def test_it_is_about_no_one_device(scalekv: Program, other: tuple[str, ...]) -> None:
    refused = scalekv("plan", "--cards", *other)
    assert refused.code == 2
    assert "--cards" in refused.err


def test_a_cache_in_fewer_bits_leaves_more_room(scalekv: Program) -> None:
    def share(*options: str) -> float:
        figures = json.loads(scalekv("plan", "--cards", "--json", *options).out)
        cards = next(m["cards"] for m in figures["models"] if m["model"] == "infinity-8b")
        return float(cards[CARDS.index(24)]["share"])

    assert share() < share("--kv-dtype", "int8") == 1
    assert share("--policy", "full") == share()
