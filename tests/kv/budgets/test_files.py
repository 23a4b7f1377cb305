"""Budgets as files state them: what is taken as it stands, and what is refused."""

from __future__ import annotations

from fractions import Fraction

import pytest

from scalekv.kv.budgets.asked import (
    BudgetSpec,
    resolve,
)
from scalekv.kv.budgets.budget import Budget
from scalekv.kv.errors import UserError
from scalekv.kv.schedule import Schedule
from tests.kv.stand_in import SEVEN

SMALL = Schedule.parse("1x1 2x2 3x3 4x4")
CAPACITIES = {3: (5, 3), 4: (6, 2)}


def spec(**changes: object) -> BudgetSpec:
    facts: dict[str, object] = {
        "name": "mine",
        "model": "toy",
        "layers": 2,
        "mean": 4,
        "schedule": SMALL,
        "capacities": CAPACITIES,
        "provenance": "by hand",
    }
    return BudgetSpec(**{**facts, **changes})  # type: ignore[arg-type]


def test_listed_capacities_are_taken() -> None:
    budget = resolve(spec(), SMALL, 2)
    assert budget.capacities == ((0, 0), (1, 1), (5, 3), (6, 2))
    assert (budget.label, budget.origin) == ("mine", "by hand")


def test_capacity_and_use_differ_where_a_file_gives_tokens_back() -> None:
    schedule = Schedule.parse("1x1 2x2 1x1 4x4")
    budget = resolve(
        spec(schedule=schedule, capacities={3: (5, 1), 4: (2, 4)}, mean=3), schedule, 2
    )
    assert budget.capacity(3, 1) == 4
    assert budget.held_tokens(3, 1) == 2  # 1 kept, 1 new


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"capacities": {3: (5, 3, 4), 4: (6, 2)}}, "3 capacities for 2 layers"),
        ({"capacities": {3: (5, 4), 4: (6, 2)}}, "average 4.5 per layer, more than 4"),
        ({"capacities": {3: (5, 3), 4: (8, 0)}}, "capacity 0 for layer 1"),
        ({"capacities": {3: (7, 1), 4: (6, 2)}}, "capacity 7 for layer 0"),
        ({"capacities": {4: (6, 2)}}, "average 5 per layer, more than 4"),
        ({"capacities": {**CAPACITIES, 2: (1, 0)}}, "capacity 0 for layer 1"),
        ({"capacities": {**CAPACITIES, 5: (4, 4)}}, "capacities for scale 5"),
        ({"layers": 3}, "made for 3 layers, the model has 2"),
        ({"schedule": SEVEN}, "made for the schedule"),
    ],
)
def test_files_that_do_not_match_are_refused(changes: dict[str, object], says: str) -> None:
    with pytest.raises(UserError) as caught:
        resolve(spec(**changes), SMALL, 2)
    assert says in caught.value.what
    assert "mine" in caught.value.where


def test_own_drafters_replace_a_files_unless_it_lists_capacities() -> None:
    by_mean = spec(capacities=None, schedule=None, mean=26, layers=8, drafters=[3])
    assert resolve(by_mean, SEVEN, 8).drafters[0] == (3,)
    assert resolve(by_mean, SEVEN, 8, [1], origin="asked").drafters[0] == (1,)
    assert resolve(by_mean, SEVEN, 8, [1], origin="asked").origin == "asked"
    with pytest.raises(UserError, match="lists its capacities"):
        resolve(spec(), SMALL, 2, [0])


def test_a_file_may_state_a_percentage() -> None:
    by_share = spec(capacities=None, schedule=None, mean=None, percent=Fraction(10), layers=8)
    assert resolve(by_share, SEVEN, 8).mean == 26


def test_the_wrong_number_of_rows_is_refused() -> None:
    with pytest.raises(UserError, match="capacities for 1 scales"):
        Budget(SMALL, 2, ((0, 0),), 4)


def test_less_than_the_mean_is_allowed() -> None:
    budget = resolve(spec(capacities={2: (1, 1), 3: (3, 3), 4: (1, 2)}), SMALL, 2)
    assert budget.capacities[3] == (1, 2)
