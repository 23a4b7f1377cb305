"""Measures against values worked out by hand or another way."""

from __future__ import annotations

import numpy as np
import pytest

from scripts.evaluate.measures import perceptual_distance


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
