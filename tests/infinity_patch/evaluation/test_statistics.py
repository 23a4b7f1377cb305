"""Intervals hold what they say, and are the same again."""

from __future__ import annotations

import math

import numpy as np

from scalekv.infinity_patch.evaluation.statistics import interval, mean, median


def test_the_interval_holds_the_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    held = 0
    for trial in range(200):
        _, low, high = interval(rng.normal(3, 1, 60), mean, seed=trial)
        held += low <= 3 <= high
    assert 0.88 <= held / 200 <= 0.99


def test_the_median_takes_equal_pictures() -> None:
    value, low, high = interval([20.0, 30.0, math.inf, math.inf, math.inf], median)
    assert value == math.inf == high
    assert low in (20.0, 30.0)
    assert interval([1.0, 2.0, 3.0], median)[0] == 2.0


def test_equal_seeds_give_equal_intervals() -> None:
    values = np.random.default_rng(1).normal(size=20)
    assert interval(values, mean) == interval(values, mean)
    assert interval(values, mean) != interval(values, mean, seed=1)
