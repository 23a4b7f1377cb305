"""Budgets of methods that know no drafters: the same mean, shared their own way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scalekv.kv.budgets.asked import capacities_for
from scalekv.kv.budgets.budget import Budget
from scalekv.kv.budgets.shapes import pyramid, uniform
from scalekv.kv.policies.registry import planned, policy_named
from scalekv.kv.schedule import Schedule
from tests.kv.stand_in import SEVEN, THIRTEEN

UNIFORM = ("sliding-window", "streaming-llm", "snapkv", "h2o", "random")
sides = st.integers(1, 9)


@pytest.mark.parametrize("name", UNIFORM)
def test_baselines_share_uniformly(name: str) -> None:
    asked = capacities_for(SEVEN, 4, (0, 2), 40, label="15%")
    budget = planned(policy_named(name), asked)
    assert budget == uniform(asked)
    assert budget.label == "15%"
    assert "every layer" in budget.origin
    for scale, row in enumerate(budget.capacities):
        assert set(row) == {min(40, SEVEN.before(scale))}


@pytest.mark.parametrize("shape", [uniform, pyramid])
@pytest.mark.parametrize("bound", ["moment", "scale"])
def test_every_shape_is_bound_as_asked(shape: Callable[[Budget], Budget], bound: str) -> None:
    asked = replace(capacities_for(SEVEN, 4, (), 40), bound=bound)
    assert shape(asked).bound == bound


@pytest.mark.parametrize("name", ["scalekv", "scalekv-anchored", "scalekv-released"])
def test_scalekv_keeps_the_budget_asked_for(name: str) -> None:
    asked = capacities_for(SEVEN, 4, (0, 2), 40)
    assert planned(policy_named(name), asked) is asked


def test_a_plan_of_another_mean_is_a_bug_that_shows() -> None:
    class Generous:
        name = "generous"

        def plan(self, asked: Budget) -> Budget:
            return capacities_for(asked.schedule, asked.layers, (), asked.mean + 1)

        def select(self, step: object) -> None:
            return None

    with pytest.raises(AssertionError, match="generous planned"):
        planned(Generous(), capacities_for(SEVEN, 4, (), 40))


def test_the_pyramid_of_2b_by_hand() -> None:
    """650 tokens on 32 layers: 634 without the window, of which the last layer gets 1/20."""
    row = pyramid(capacities_for(THIRTEEN, 32, (0, 23), 650)).capacities[-1]
    assert row[0] == 16 + 2 * 634 - 31
    assert row[-1] == 16 + 31
    assert sum(row) == 650 * 32
    steps = [a - b for a, b in pairwise(row)]
    assert set(steps) <= {38, 39, 40}  # 1206 tokens over 31 steps are 38.9 each


def test_the_first_layer_takes_no_more_than_there_is() -> None:
    """When 921 tokens exist and 650 are asked for, the first layer keeps all and the rest slope."""
    row = pyramid(capacities_for(THIRTEEN, 32, (), 650)).capacities[8]
    assert THIRTEEN.before(8) == 921
    assert row[0] == 921
    assert row[-1] == 2 * 650 - 921
    assert list(row) == sorted(row, reverse=True)


@settings(max_examples=80, deadline=None)
@given(
    scales=st.lists(st.tuples(sides, sides), min_size=2, max_size=6),
    layers=st.integers(1, 40),
    mean=st.integers(1, 300),
    window=st.integers(1, 40),
)
def test_a_pyramid_averages_the_mean_and_can_be_filled(
    scales: list[tuple[int, int]], layers: int, mean: int, window: int
) -> None:
    schedule = Schedule(tuple(scales))
    asked = capacities_for(schedule, layers, (), mean, window)
    budget = pyramid(asked)  # which checks its own mean
    assert pyramid(budget) == budget
    for scale in range(len(schedule)):
        for layer in range(layers):
            assert budget.held_tokens(scale, layer) == budget.capacity(scale, layer)
    first = next((s for s in range(len(schedule)) if schedule.before(s) > mean), None)
    if first is not None:
        assert list(budget.capacities[first]) == sorted(budget.capacities[first], reverse=True)
