"""What caches refuse: calls out of turn, other schedules, impossible budgets, policies that err."""

from __future__ import annotations

import pytest
from torch import Tensor

from scalekv.kv.budgets.asked import capacities_for
from scalekv.kv.budgets.budget import Budget
from scalekv.kv.caches.caches import Caches
from scalekv.kv.errors import UserError
from scalekv.kv.policies.full import FullPolicy
from scalekv.kv.policies.policy import Step
from scalekv.kv.policies.registry import policy_named
from scalekv.kv.schedule import Schedule
from tests.kv.stand_in import (
    PORTRAIT,
    SEVEN,
    Inputs,
    exact_attention,
    full_caches,
    percent,
    play,
)


def call(caches: Caches, layer: int, scale: int, schedule: Schedule) -> None:
    q, k, v = Inputs().at(layer, scale, schedule.tokens[scale])
    caches.attend(layer, scale, schedule, q, k, v, exact_attention)


def test_scales_out_of_turn_are_refused() -> None:
    caches = full_caches()
    with pytest.raises(UserError, match="scale 3 came when scale 1 was due"):
        call(caches, 0, 2, SEVEN)
    call(caches, 0, 0, SEVEN)
    with pytest.raises(UserError, match="scale 3 came when scale 2 was due"):
        call(caches, 0, 2, SEVEN)
    with pytest.raises(UserError, match="scale 2 came when scale 1 was due"):
        call(caches, 1, 1, SEVEN)


def test_a_schedule_may_not_change_within_a_picture() -> None:
    caches = full_caches()
    call(caches, 0, 0, SEVEN)
    with pytest.raises(UserError, match="schedule changed"):
        call(caches, 0, 1, PORTRAIT)
    call(caches, 0, 0, PORTRAIT)  # a new picture may have its own


def test_a_schedule_that_was_given_is_the_only_one() -> None:
    caches = Caches(2, FullPolicy(), lambda schedule: None, SEVEN)
    call(caches, 0, 0, SEVEN)
    with pytest.raises(UserError) as caught:
        call(caches, 0, 0, PORTRAIT)
    assert caught.value.where == "schedule"


def test_a_budget_that_cannot_be_made_fails_before_the_first_picture() -> None:
    with pytest.raises(UserError, match="less than one token"):
        Caches(2, policy_named("scalekv"), percent("0.1%"), SEVEN)


def test_a_policy_beyond_its_capacity_is_a_bug_that_shows() -> None:
    class Greedy:
        name = "greedy"

        def select(self, step: Step) -> Tensor | None:
            return None

    caches = Caches(1, Greedy(), lambda schedule: capacities_for(schedule, 1, (), 26))
    with pytest.raises(AssertionError, match="greedy kept 57 tokens of layer 0 after scale 4"):
        play(caches, SEVEN, Inputs(layers=1))


def test_a_policy_without_a_budget_is_not_asked_for_one() -> None:
    def refuse(schedule: Schedule) -> Budget:
        raise AssertionError("asked")

    caches = Caches(1, FullPolicy(), refuse, SEVEN)
    play(caches, SEVEN, Inputs(layers=1))
    assert caches.budget is None
