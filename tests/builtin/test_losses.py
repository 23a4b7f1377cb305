"""Specks in corners count, however large the picture."""

from __future__ import annotations

import pytest
import torch

from scripts.builtin.losses import CORNERS, corner_loss, edge_loss, picture_loss


def test_a_speck_in_a_corner_counts_and_one_elsewhere_does_not() -> None:
    x = torch.zeros(1, 3, 64, 64)
    y = x.clone()
    y[0, 1, 0, 63] = 1.0
    assert float(corner_loss(y, x)) == pytest.approx(1 / (4 * 3 * 4))
    elsewhere = x.clone()
    elsewhere[0, 1, 10, 40] = 1.0
    assert float(corner_loss(elsewhere, x)) == 0


def test_a_shift_of_lightness_moves_no_edge() -> None:
    x = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert float(edge_loss(x + 0.25, x)) == pytest.approx(0, abs=1e-6)
    whole = picture_loss(x + 0.25, x, torch.tensor(0.0))
    assert float(whole) == pytest.approx(0.25 + 0.25**2 + CORNERS * 0.25, rel=1e-4)
    assert float(picture_loss(x, x, torch.tensor(100.0))) == pytest.approx(0.1)
