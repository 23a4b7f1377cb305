"""What a decoder's norms are given: one enormous value counts, a drawing's parts do not."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from scripts.builtin.peaks import LIMIT, excess, standardised, watched


def test_a_part_of_a_drawing_is_no_peak_and_one_enormous_value_is() -> None:
    x = torch.zeros(1, 2, 128, 128)
    x[:, :, 40:60, 40:60] = 1
    assert float(excess(x, 2)) == 0
    x = torch.randn(1, 2, 128, 128, generator=torch.Generator().manual_seed(0))
    assert float(excess(x, 2)) == 0
    x[0, 1, 30, 100] = 40.0
    largest = float(standardised(x, 2).abs().max())
    assert largest > 30
    # of two groups one has it, and nothing else reaches the limit
    assert float(excess(x, 2)) == pytest.approx((largest - LIMIT) ** 2 / 2, rel=1e-5)


def test_less_excess_is_a_lower_value_at_the_peak() -> None:
    x = torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    x[0, 0, 5, 60] = 50.0
    x.requires_grad_()
    excess(x, 1).backward()
    assert x.grad is not None
    assert int(x.grad.abs().argmax()) == 5 * 64 + 60
    assert float(x.grad[0, 0, 5, 60]) > 0


def test_norms_are_watched_inside_the_block_alone() -> None:
    decoder = nn.Sequential(nn.GroupNorm(1, 1), nn.Conv2d(1, 1, 1))
    x = torch.zeros(1, 1, 64, 64)
    x[0, 0, 0, 63] = 1.0
    with watched(decoder) as peaks:
        decoder(x)
        assert float(peaks.take()) > 1000
        decoder(torch.ones(1, 1, 64, 64))
        assert float(peaks.take()) == 0
    assert not decoder[0]._forward_pre_hooks
