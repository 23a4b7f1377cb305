"""Measures against values worked out by hand or another way."""

from __future__ import annotations

import math

import numpy as np
import pytest

from scripts.evaluate.measures import interval, mean, median, perceptual_distance


def flat(value: int, side: int = 32) -> np.ndarray:
    return np.full((side, side, 3), value, np.uint8)


def noisy(picture: np.ndarray, sigma: float, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, sigma, picture.shape)
    return np.clip(picture + noise, 0, 255).astype(np.uint8)


def drawing() -> np.ndarray:
    picture = flat(255, 64)
    picture[16:48, 16:48] = (200, 40, 40)
    return picture


def test_the_perceptual_distance_grows_with_the_difference() -> None:
    pytest.importorskip("efficientnet_lite_pytorch")
    same, little, much = (perceptual_distance(drawing(), noisy(drawing(), s)) for s in (0, 5, 40))
    assert same == pytest.approx(0, abs=1e-6)
    assert 0 < little < much


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
