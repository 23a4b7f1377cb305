"""While layers are rewritten, never more than the mean: checked against a simulation of its own."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scalekv.kv.budgets.asked import capacities_for
from scalekv.kv.budgets.budget import Budget
from scalekv.kv.budgets.moments import within
from scalekv.kv.budgets.shapes import pyramid, uniform
from scalekv.kv.memory.predicted import peak_held_tokens
from scalekv.kv.schedule import Schedule
from tests.kv.stand_in import SEVEN, THIRTEEN


def totals(budget: Budget) -> list[int]:
    """Tokens held by all heads of all layers after every single rewriting of a layer."""
    heads = budget.heads or 1
    held = {(layer, head): 0 for layer in range(budget.layers) for head in range(heads)}
    moments = [0]
    for scale, new in enumerate(budget.schedule.tokens[:-1], start=1):
        for layer in range(budget.layers):
            for head, most in enumerate(budget.limits(scale, layer, heads)):
                held[layer, head] = min(held[layer, head] + new, most)
            moments.append(sum(held.values()))
    return moments


def lowered(planned: Budget, use: Budget) -> list[tuple[int, int, int]]:
    """The (scale, layer, head) where less may be held than planned."""
    heads = planned.heads or 1
    return [
        (scale, layer, head)
        for scale in range(len(planned.schedule))
        for layer in range(planned.layers)
        for head, most in enumerate(planned.limits(scale, layer, heads))
        if use.limits(scale, layer, heads)[head] != most
    ]


def check(planned: Budget) -> None:
    use = within(planned)
    bound = planned.mean * planned.layers * (planned.heads or 1)
    assert max(totals(use)) <= bound
    assert max(totals(use)) == peak_held_tokens(use.schedule, use.layers, use, heads=use.heads or 1)
    assert within(use) is use
    changed = lowered(planned, use)
    assert (use is planned) == (not changed)
    assert bool(changed) == (max(totals(planned)) > bound)
    heads = planned.heads or 1
    for scale, layer, head in changed:
        now = use.held_by_head(scale, layer, heads)[head]
        assert use.limits(scale, layer, heads)[head] == now
        assert now <= planned.held_by_head(scale, layer, heads)[head]


@st.composite
def generated(draw: st.DrawFn) -> Budget:
    side = st.integers(1, 12)
    schedule = Schedule(tuple(draw(st.lists(st.tuples(side, side), min_size=2, max_size=7))))
    layers = draw(st.integers(1, 6))
    rows = st.lists(st.integers(0, layers - 1), unique=True)
    drafters = draw(st.lists(rows, min_size=len(schedule), max_size=len(schedule)))
    mean = draw(st.integers(1, schedule.history + 5))
    budget = capacities_for(schedule, layers, drafters, mean, draw(st.integers(1, 16)))
    return draw(st.sampled_from([budget, pyramid(budget), uniform(budget)]))


@st.composite
def by_head(draw: st.DrawFn) -> Budget:
    """Any capacities at all that average at most the mean, by head or (heads 0) by layer."""
    side = st.integers(1, 6)
    schedule = Schedule(tuple(draw(st.lists(st.tuples(side, side), min_size=2, max_size=6))))
    layers, heads = draw(st.integers(1, 4)), draw(st.integers(0, 3))
    mean = draw(st.integers(1, schedule.history))
    rows = []
    for scale in range(len(schedule)):
        history = schedule.before(scale)
        count = layers * (heads or 1)
        least = 0 if heads else min(1, history)
        left = mean * count - least * count
        row = []
        for _ in range(count):
            row.append(least + draw(st.integers(0, min(history - least, left))))
            left -= row[-1] - least
        row = draw(st.permutations(row))
        size = heads or 1
        rows.append(tuple(tuple(row[at : at + size]) for at in range(0, count, size)))
    return Budget(
        schedule=schedule,
        layers=layers,
        capacities=tuple(tuple(max(heads) for heads in row) for row in rows),
        mean=mean,
        head_capacities=tuple(rows) if heads else (),
    )


@settings(max_examples=200, deadline=None)
@given(generated())
def test_no_moment_sees_more_than_the_mean(planned: Budget) -> None:
    check(planned)


@settings(max_examples=300, deadline=None)
@given(by_head())
def test_nor_with_any_capacities_by_head_or_by_layer(planned: Budget) -> None:
    check(planned)


@pytest.mark.parametrize("mean", [265, 642, 650, 1300, 3000, 6425])
def test_the_published_schedule(mean: int) -> None:
    for layers, drafters in ((32, {1: [0, 23], 13: [0]}), (40, [0, 1, 2]), (8, [7])):
        check(capacities_for(THIRTEEN, layers, drafters, mean))


def test_the_side_that_loses_the_smaller_share_gives_way() -> None:
    """2B, paper-10: refiners shrink early while drafters grow; but before the last scale layer 23
    would have to give up four fifths, so layer 0 and the refiners before it do not grow."""
    planned = capacities_for(THIRTEEN, 32, {1: [0, 23], 13: [0]}, 650)
    use = within(planned)
    assert use.capacity(8, 31) == planned.capacity(9, 31) == 594
    assert use.capacity(8, 1) == planned.capacity(8, 1) == 632
    assert use.capacities[11] == planned.capacities[11]
    assert use.capacity(12, 0) == 4100
    assert use.capacity(12, 22) == 420
    assert use.capacities[12][23:] == planned.capacities[12][23:]
    assert peak_held_tokens(THIRTEEN, 32, use) <= 650 * 32 < peak_held_tokens(THIRTEEN, 32, planned)


def test_early_layers_grow_a_scale_late() -> None:
    planned = capacities_for(SEVEN, 8, [0, 1, 2], 26)
    assert planned.capacities[4] == (41, 41, 41, 17, 17, 17, 17, 17)
    use = within(planned)
    assert use.capacities[3] == planned.capacities[3]
    assert use.capacities[4] == (34, 34, 35, 17, 17, 17, 17, 17)
    assert use.capacities[5:] == planned.capacities[5:]


def test_a_budget_bound_by_scale_alone_holds_what_was_planned() -> None:
    planned = capacities_for(THIRTEEN, 32, {1: [0, 23], 13: [0]}, 650)
    by_scale = replace(planned, bound="scale")
    assert within(by_scale) is by_scale
    assert round(peak_held_tokens(THIRTEEN, 32, by_scale) / (650 * 32), 2) == 1.16
    assert pyramid(by_scale).bound == "scale"


def test_nothing_is_given_up_where_nothing_grows_early() -> None:
    for planned in (
        capacities_for(SEVEN, 8, (), 26),
        capacities_for(SEVEN, 8, [0], 265),
        capacities_for(Schedule.parse("3x3"), 2, [0], 5),
    ):
        assert within(planned) is planned
