"""What is said to fit on a card does, and a little more would not."""

from __future__ import annotations

from typing import Any

import pytest

from scalekv.configs.models import model_named
from scalekv.infinity_patch.asked.request import Request
from scalekv.infinity_patch.asked.settled import settle
from scalekv.infinity_patch.loading.placement import Placement
from scalekv.infinity_patch.planning.cards import CARDS, LEAST, fitting, on_cards
from scalekv.infinity_patch.planning.lighter import LIGHTER
from scalekv.infinity_patch.planning.planner import Planner

OPTIONS: dict[str, dict[str, Any]] = dict(LIGHTER)


def planner(model: str) -> Planner:
    settled = settle(Request(("a",)), model_named(model), "cuda", "bf16")
    return Planner(settled, Placement(keep_text_encoder=False))


@pytest.mark.parametrize("model", ["infinity-125m", "infinity-2b", "infinity-8b", "infinity-20b"])
def test_the_share_that_is_said_fits_and_no_more(model: str) -> None:
    for size, found in on_cards(planner(model)).items():
        placed, memory = planner(model).placed(**OPTIONS[found.placement]), size * 10**9
        full = placed.unbounded().footprint(1).needed
        if found.share == 1:
            assert full <= memory
            continue
        assert full > memory
        tokens = round(found.share * placed.settled.schedule.history)
        assert placed.footprint(1, tokens).needed <= memory
        assert placed.footprint(1, tokens + 1).needed > memory


def test_the_fastest_placement_that_keeps_enough_is_taken() -> None:
    plan = planner("infinity-8b")
    for size in CARDS:
        found = fitting(plan, size * 10**9)
        for options, changes in LIGHTER:
            if options == found.placement:
                break
            tokens = plan.placed(**changes).largest_budget(size * 10**9, 1) or 0
            assert tokens < LEAST * plan.settled.schedule.history


def test_nothing_fits_on_no_card() -> None:
    assert fitting(planner("infinity-2b"), 10**9).share == 0
