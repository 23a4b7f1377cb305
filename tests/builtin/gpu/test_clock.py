"""A stage goes on where a run before it stopped; its rate falls to nothing in the end."""

from __future__ import annotations

import time

import pytest

from scripts.builtin.gpu.clock import COOL_DOWN, WARM_UP, TimeLimit, rate_at


def test_the_rate_rises_by_steps_and_falls_by_time() -> None:
    assert rate_at(0.0, 0) == pytest.approx(1 / WARM_UP)
    assert rate_at(0.0, WARM_UP) == 1
    assert rate_at(1 - COOL_DOWN, 1000) == pytest.approx(1)
    assert rate_at(1 - COOL_DOWN / 2, 1000) == pytest.approx(0.5)
    assert rate_at(1.0, 1000) == 0


def test_a_stage_counts_what_was_spent_before() -> None:
    clock = TimeLimit(100, 50, time.monotonic() + 1000)
    assert clock.share == pytest.approx(0.5, abs=0.01)
    assert clock.spent == pytest.approx(50, abs=1)


def test_a_stage_that_does_not_fit_is_shorter_from_the_beginning() -> None:
    clock = TimeLimit(100, 30, time.monotonic() + 20)
    assert clock.seconds == pytest.approx(50, abs=0.1)
    assert clock.share == pytest.approx(0.6, abs=0.01)
    assert TimeLimit(100, 30, time.monotonic() - 1).share == 1
    assert TimeLimit(100, 0, time.monotonic() - 1).share == 1
