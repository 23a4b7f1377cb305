"""Measures against values worked out by hand or another way."""

from __future__ import annotations

import math

import numpy as np
import pytest

from scripts.eval_measures import interval, mean, median, perceptual_distance, psnr, ssim


def flat(value: int, side: int = 32) -> np.ndarray:
    return np.full((side, side, 3), value, np.uint8)


def noisy(picture: np.ndarray, sigma: float, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, sigma, picture.shape)
    return np.clip(picture + noise, 0, 255).astype(np.uint8)


def drawing() -> np.ndarray:
    picture = flat(255, 64)
    picture[16:48, 16:48] = (200, 40, 40)
    return picture


def test_psnr_of_a_known_error() -> None:
    assert psnr(flat(100), flat(110)) == pytest.approx(20 * math.log10(255 / 10))
    assert psnr(flat(7), flat(7)) == math.inf


def test_ssim_of_flat_pictures_is_its_luminance_term() -> None:
    c = (0.01 * 255) ** 2
    expected = (2 * 100 * 150 + c) / (100**2 + 150**2 + c)
    assert ssim(flat(100), flat(150)) == pytest.approx(expected, rel=1e-9)


def test_ssim_by_its_definition_at_one_place() -> None:
    rng = np.random.default_rng(3)
    a, b = (rng.integers(0, 256, (11, 11, 3)).astype(np.uint8) for _ in range(2))
    y, x = np.mgrid[-5:6, -5:6]
    window = np.exp(-(x**2 + y**2) / (2 * 1.5**2))
    window /= window.sum()
    found = []
    for channel in range(3):
        p, q = a[..., channel].astype(float), b[..., channel].astype(float)
        mp, mq = (window * p).sum(), (window * q).sum()
        vp, vq = (window * (p - mp) ** 2).sum(), (window * (q - mq) ** 2).sum()
        cov = (window * (p - mp) * (q - mq)).sum()
        c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
        top = (2 * mp * mq + c1) * (2 * cov + c2)
        found.append(top / ((mp**2 + mq**2 + c1) * (vp + vq + c2)))
    assert ssim(a, b) == pytest.approx(np.mean(found), rel=1e-6)


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
