"""Selectivity by hand, and drafters that are nested, exactly as many, and the best such."""

from __future__ import annotations

from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalekv.kv.calibration.drafting import (
    agreement,
    mass_of_later_scales,
    nested_drafters,
    selectivity,
    share_carrying,
    usual_drafters,
    z_scores,
)


def test_selectivity_by_hand() -> None:
    """Two pictures, two scales, one layer of two heads."""
    own = np.array([[[[1.0, 1.0]], [[0.4, 0.2]]], [[[1.0, 1.0]], [[0.6, 0.4]]]])
    top = np.array([[[[0.0, 0.0]], [[0.3, 0.5]]], [[[0.0, 0.0]], [[0.1, 0.1]]]])
    index = selectivity(own, top)
    assert np.isnan(index[0]).all()
    np.testing.assert_allclose(index[1], [[0.5 * 0.2, 0.3 * 0.3]])


def test_z_scores_by_hand() -> None:
    scores = z_scores(np.array([[np.nan, np.nan, np.nan], [1.0, 2.0, 3.0], [7.0, 7.0, 7.0]]))
    assert np.isnan(scores[0]).all()
    np.testing.assert_allclose(scores[1], np.array([-1, 0, 1]) * 1.5**0.5)
    assert scores[2].tolist() == [0, 0, 0]


def test_as_many_drafters_as_were_released() -> None:
    """arXiv 2505.19602's code: 2 of infinity-2b's 32 layers, 3 of infinity-8b's 40."""
    assert [usual_drafters(layers) for layers in (8, 32, 40)] == [1, 2, 3]


@st.composite
def cases(draw: st.DrawFn) -> tuple[np.ndarray, list[int], int]:
    layers, first = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    scales = list(range(first, first + draw(st.integers(1, 3))))
    values = st.lists(st.integers(-40, 40), min_size=layers, max_size=layers)
    scores = np.array([draw(values) for _ in range(scales[-1] + 1)]) / 8  # exact in binary
    return scores, scales, draw(st.integers(0, layers * len(scales)))


@given(cases())
def test_drafters_are_nested_and_the_best_such(case: tuple[np.ndarray, list[int], int]) -> None:
    scores, scales, pairs = case
    layers = scores.shape[1]
    drafters = nested_drafters(scores, scales, pairs)
    rows = [set(drafters[scale]) for scale in scales]
    assert list(drafters) == scales
    assert sum(map(len, rows)) == pairs
    for earlier, later in pairwise(rows):
        assert later <= earlier, "a refiner has dropped its tokens and cannot be a drafter again"

    def total(kept: tuple[int, ...]) -> float:
        return sum(float(scores[s, layer]) for layer, n in enumerate(kept) for s in scales[:n])

    all_nested = product(range(len(scales) + 1), repeat=layers)
    best = min(total(kept) for kept in all_nested if sum(kept) == pairs)
    assert sum(scores[scale, layer] for scale in scales for layer in drafters[scale]) == best


@given(cases())
def test_the_lowest_pairs_are_taken_where_they_are_nested(
    case: tuple[np.ndarray, list[int], int],
) -> None:
    scores, scales, pairs = case
    # Distinct scores that only rise with the scale: a layer's lowest pairs are its first ones.
    rising = np.cumsum(np.abs(scores) + np.arange(scores.size).reshape(scores.shape) * 2**-7, 0)
    rising += np.arange(rising.shape[1]) * 2**-20
    order = sorted(product(scales, range(scores.shape[1])), key=lambda pair: rising[pair])
    lowest = set(order[:pairs])
    drafters = nested_drafters(rising, scales, pairs)
    assert {(scale, layer) for scale in scales for layer in drafters[scale]} == lowest


def test_a_late_drafter_must_be_worth_its_earlier_scales() -> None:
    scores = np.array([[0, 0], [2, -1], [-1.5, 0.5]])
    assert nested_drafters(scores, [1, 2], 1) == {1: (1,), 2: ()}
    assert nested_drafters(scores, [1, 2], 2) == {1: (1,), 2: (1,)}  # -0.5; layer 0's are 0.5


def test_agreement_of_halves() -> None:
    own = np.ones((4, 2, 3, 1))
    top = np.tile(np.array([0.1, 0.2, 0.3])[:, None], (4, 2, 1, 1))
    assert agreement(own, top, [1], 1) == 1
    top[1::2] = top[1::2, :, ::-1]
    assert agreement(own, top, [1], 1) == 0
    assert agreement(own, top, [1], 2) == 0.5
    assert agreement(own[:1], top[:1], [1], 1) is None


def test_mass_of_later_scales_by_hand() -> None:
    """Three scales, one layer, one head."""
    mass = np.array([[1, 0, 0], [0.3, 0.7, 0], [0.1, 0.4, 0.5]])[..., None, None]
    np.testing.assert_allclose(mass_of_later_scales(mass)[:, 0, 0], [0.2, 0.4])


@pytest.mark.parametrize(
    ("mass", "part", "share"),
    [
        ([5, 0, 4, 1], 0.9, 0.5),
        ([5, 0, 4, 1], 0.91, 0.75),
        ([5, 0, 4, 1], 1, 0.75),
        ([2, 2], 0.1, 0.5),
        ([0, 0], 0.99, 0),
        ([], 0.99, 0),
    ],
)
def test_share_carrying_by_hand(mass: list[float], part: float, share: float) -> None:
    assert share_carrying(np.array(mass, dtype=float), part) == share
