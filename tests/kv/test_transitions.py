"""While layers are rewritten, never more than the mean: checked against a simulation of its own."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scalekv.kv.budget import Budget, generate
from scalekv.kv.memory import peak_held_tokens
from scalekv.kv.schedule import Schedule
from scalekv.kv.shapes import pyramid, uniform
from scalekv.kv.transitions import within
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


def raised(budget: Budget, scale: int, layer: int, head: int) -> Budget:
    """One token more for one head at one scale, whatever that does to the mean."""
    rows = [list(map(list, row)) for row in (budget.head_capacities or ())]
    flat = [list(row) for row in budget.capacities]
    if rows:
        rows[scale][layer][head] += 1
        flat[scale][layer] = max(rows[scale][layer])
    else:
        flat[scale][layer] += 1
    return replace(
        budget,
        mean=budget.schedule.history,
        capacities=tuple(map(tuple, flat)),
        head_capacities=tuple(tuple(map(tuple, row)) for row in rows),
    )


def check(planned: Budget) -> None:
    use = within(planned)
    bound = planned.mean * planned.layers * (planned.heads or 1)
    assert max(totals(use)) <= bound
    assert max(totals(use)) == peak_held_tokens(use.schedule, use.layers, use, heads=use.heads or 1)
    assert within(use) is use
    changed = lowered(planned, use)
    assert (use is planned) == (not changed)
    assert bool(changed) == (max(totals(planned)) > bound)
    for scale, layer, head in changed:
        heads = planned.heads or 1
        now = use.held_by_head(scale, layer, heads)[head]
        assert use.limits(scale, layer, heads)[head] == now
        assert now < planned.held_by_head(scale, layer, heads)[head]
        # No further than where the head is going anyway, and not one token for nothing.
        assert now >= planned.held_by_head(scale + 1, layer, heads)[head] or (
            now >= use.held_by_head(scale + 1, layer, heads)[head]
        )
        assert max(totals(raised(use, scale, layer, head))) > bound


@st.composite
def generated(draw: st.DrawFn) -> Budget:
    side = st.integers(1, 12)
    schedule = Schedule(tuple(draw(st.lists(st.tuples(side, side), min_size=2, max_size=7))))
    layers = draw(st.integers(1, 6))
    rows = st.lists(st.integers(0, layers - 1), unique=True)
    drafters = draw(st.lists(rows, min_size=len(schedule), max_size=len(schedule)))
    mean = draw(st.integers(1, schedule.history + 5))
    budget = generate(schedule, layers, drafters, mean, draw(st.integers(1, 16)))
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
        check(generate(THIRTEEN, layers, drafters, mean))


def test_the_last_layers_shrink_a_scale_early() -> None:
    """2B, paper-10: layer 0 has grown to 6385 before layer 23 shrinks from 4100 to 465."""
    planned = generate(THIRTEEN, 32, {1: [0, 23], 13: [0]}, 650)
    use = within(planned)
    assert use.capacities[12] == planned.capacities[12]
    excess = (6385 - 4100) + (465 - 420) * 22
    assert use.capacity(11, 23) == 4100 - excess
    assert use.capacities[11][:23] == planned.capacities[11][:23]
    assert use.capacities[11][24:] == planned.capacities[11][24:]
    # Before that the refiners shrink while layer 0 grows, and the very last of them give way.
    assert use.capacity(10, 31) == planned.capacity(11, 31) == 420
    assert use.capacity(10, 1) == planned.capacity(10, 1) == 526
    assert peak_held_tokens(THIRTEEN, 32, use) <= 650 * 32 < peak_held_tokens(THIRTEEN, 32, planned)


def test_nothing_is_given_up_where_nothing_grows_early() -> None:
    for planned in (
        generate(SEVEN, 8, (), 26),
        generate(SEVEN, 8, [0], 265),
        generate(Schedule.parse("3x3"), 2, [0], 5),
    ):
        assert within(planned) is planned
