"""PSNR and SSIM against their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image

from scalekv.infinity_patch.likeness import likeness
from scalekv.kv.errors import UserError

RANDOM = np.random.default_rng(0)
PIXELS = RANDOM.integers(0, 256, (24, 32, 3), dtype=np.uint8)


def picture(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels)


def test_equal_pictures() -> None:
    found = likeness(picture(PIXELS), picture(PIXELS))
    assert found.psnr == math.inf
    assert found.ssim == pytest.approx(1)
    assert found.identical


def test_psnr_is_of_the_mean_squared_error() -> None:
    other = RANDOM.integers(0, 256, PIXELS.shape, dtype=np.uint8)
    error = ((PIXELS.astype(float) - other) ** 2).mean()
    found = likeness(picture(other), picture(PIXELS))
    assert found.psnr == pytest.approx(10 * math.log10(255**2 / error))
    assert not found.identical


def test_ssim_of_flat_pictures_is_the_luminance_term() -> None:
    # Wang et al. 2004, eq. 13 without variance: (2ab + C1) / (a^2 + b^2 + C1), C1 = (0.01 * 255)^2
    a, b, c = 100, 150, (0.01 * 255) ** 2
    flat = [np.full((24, 24, 3), value, dtype=np.uint8) for value in (a, b)]
    expected = (2 * a * b + c) / (a * a + b * b + c)
    found = likeness(*(picture(pixels) for pixels in flat))
    assert found.ssim == pytest.approx(expected, abs=1e-9)


def test_one_pixel_counts() -> None:
    other = PIXELS.copy()
    other[0, 0, 0] ^= 1
    found = likeness(picture(other), picture(PIXELS))
    assert not found.identical
    assert 60 < found.psnr < math.inf


def test_sizes_must_agree() -> None:
    with pytest.raises(UserError, match="24x24 and 32x24"):
        likeness(picture(PIXELS[:, :24]), picture(PIXELS))
