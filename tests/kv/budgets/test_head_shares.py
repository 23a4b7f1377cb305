"""How tokens are shared by what was measured of heads: at the mean, whatever the figures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scalekv.kv.budgets.asked import parse_budget, resolve
from scalekv.kv.budgets.budget import Budget
from scalekv.kv.budgets.head_shares import (
    CONTEXTUAL,
    adaptive_budget,
    ams_budget,
    hack_budget,
    hack_plus_budget,
)
from scalekv.kv.budgets.moments import within
from scalekv.kv.calibration.profile import AttentionProfile
from scalekv.kv.errors import UserError
from scalekv.kv.memory.predicted import peak_held_tokens
from scalekv.kv.schedule import Schedule
from tests.kv.stand_in import SEVEN, made_profile

Plan = Callable[[Budget, AttentionProfile], Budget]
PLANS: tuple[Plan, ...] = (ams_budget, hack_budget, hack_plus_budget, adaptive_budget)
sides = st.integers(1, 7)


@pytest.mark.parametrize("plan", PLANS)
@settings(max_examples=30, deadline=None)
@given(
    scales=st.lists(st.tuples(sides, sides), min_size=1, max_size=6),
    tokens=st.integers(1, 60),
    layers=st.integers(1, 4),
    heads=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_the_mean_is_kept_to_exactly_and_at_every_moment(
    plan: Plan, scales: list[tuple[int, int]], tokens: int, layers: int, heads: int, seed: int
) -> None:
    schedule = Schedule(tuple(scales))
    asked = resolve(parse_budget(str(tokens)), schedule, layers)
    budget = plan(asked, made_profile(len(scales), layers, heads, seed))
    for scale in range(len(schedule)):
        rows = [budget.limits(scale, layer, heads) for layer in range(layers)]
        mean = min(schedule.before(scale), tokens)
        assert sum(map(sum, rows)) == mean * layers * heads
        assert min(map(min, rows)) >= min(1, schedule.before(scale))
    most = peak_held_tokens(schedule, layers, within(budget), heads)
    assert most <= tokens * layers * heads


def ten_percent(layers: int) -> Budget:
    return resolve(parse_budget("10%"), SEVEN, layers)


def profile_with(**tables: Any) -> AttentionProfile:
    flat = (((0.5, 0.5), (0.5, 0.5)),) * 7
    names = ("own", "entropy", "variance", "change")
    return AttentionProfile(*(tables.get(name, flat) for name in names))


def test_structural_heads_get_what_contextual_ones_leave() -> None:
    variance = (((0.9, 0.01), (0.01, 0.01)),) * 7
    budget = hack_budget(ten_percent(2), profile_with(variance=variance))
    less = int(CONTEXTUAL * 26)
    assert budget.head_capacities[6] == ((4 * 26 - 3 * less, less), (less, less))


def test_reliance_on_earlier_scales_decides_by_scale() -> None:
    early = [((0.1, 0.9), (0.5, 0.5))] * 6
    budget = hack_plus_budget(ten_percent(2), profile_with(own=(*early, ((0.9, 0.1), (0.5, 0.5)))))
    (low, high), _ = budget.head_capacities[6]
    assert high > 26 > low
    assert budget.head_capacities[5][0][0] > 26


def test_heads_of_a_layer_share_what_is_the_layers() -> None:
    entropy = (((5.0, 1.0), (3.0, 3.0)),) * 7
    budget = adaptive_budget(ten_percent(2), profile_with(entropy=entropy))
    for row in budget.head_capacities[5:]:
        assert [sum(heads) for heads in row] == [52, 52]
    first, second = budget.head_capacities[6]
    assert first[0] > first[1] >= 5
    assert second == (26, 26)


def test_layers_whose_keys_change_get_more() -> None:
    change = (((0.9, 0.9), (0.1, 0.1)),) * 7
    budget = ams_budget(ten_percent(2), profile_with(change=change))
    assert not budget.head_capacities
    assert budget.capacities[6] == (26 + 10, 26 - 10)


def test_figures_that_are_all_alike_share_evenly() -> None:
    for plan in PLANS:
        budget = plan(ten_percent(2), profile_with(own=(((1.0, 1.0), (1.0, 1.0)),) * 7))
        assert {budget.limits(6, layer, 2) for layer in range(2)} == {(26, 26)}


@pytest.mark.parametrize("plan", PLANS)
def test_another_models_calibration_is_refused(plan: Plan) -> None:
    with pytest.raises(UserError, match="the model has 2"):
        plan(ten_percent(2), made_profile(7, 3, 2))


@pytest.mark.parametrize("plan", [hack_plus_budget, adaptive_budget])
def test_a_calibration_at_a_smaller_size_is_refused(plan: Plan) -> None:
    with pytest.raises(UserError, match="has 5 scales"):
        plan(ten_percent(2), made_profile(5, 2, 2))
