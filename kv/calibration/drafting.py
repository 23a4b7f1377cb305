"""From attention statistics to drafters, and how sparse attention is. Arithmetic on small arrays:
knows no tensors, no files, no model. Scales and layers count from 0."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]

CARRIED = 0.99
"""The part of attention whose carriers are counted."""


def selectivity(own: Numbers, top: Numbers) -> Numbers:
    """(K, N, H) Attention Selectivity Index per head; arXiv 2505.19602.

    The attention on the current map times the sum of the K' largest weights on earlier scales,
    each a mean over queries first. High: a refiner. Low: a drafter, which spreads its attention.
    NaN at scale 0, before which there is nothing.

    As the attention on all scales is 1, the product is at most 1/4 and falls towards 0 where a
    head looks at the current map alone: the index takes the most decided refiners for drafters.
    With that sum as a share of the attention on earlier scales (`AttentionMeans.focus` for `top`)
    it rises with both factors.

    Args:
        own, top: (P, K, N, H) means over the queries of each of P pictures.
    """
    index: Numbers = own.mean(0) * top.mean(0)
    index[0] = np.nan
    return index


def z_scores(index: Numbers) -> Numbers:
    """(K, N) deviations from the mean over the layers of a scale, in standard deviations.

    Args:
        index: (K, N), one value per layer and scale. Equal layers score 0.
    """
    centred: Numbers = index - index.mean(1, keepdims=True)
    spread = index.std(1, keepdims=True)
    scores: Numbers = np.divide(centred, spread, out=centred * 0, where=spread > 0)
    return scores


def usual_drafters(layers: int) -> int:
    """Drafters per scale where nobody says how many: one layer in 16, rounded up.

    That is what was released: 2 of infinity-2b's 32 layers, 3 of infinity-8b's 40.
    """
    return ceil(layers / 16)


def nested_drafters(
    scores: Numbers, scales: Sequence[int], pairs: int
) -> dict[int, tuple[int, ...]]:
    """The drafters of each of `scales`: `pairs` pairs (layer, scale) with the lowest scores, such
    that a layer is a drafter from the first of the scales up to some last one.

    A layer that was a refiner has dropped its tokens, so it cannot be a drafter again: the
    drafters of a scale are a subset of those of the scale before. Among all such choices of
    exactly `pairs` pairs it is the one with the least sum of scores, so where the lowest pairs are
    nested by themselves, those. Of equal sums the one that leaves out the earlier layers.

    Args:
        scores: (K, N) z-scores.
        scales: the scales at which tokens are dropped, ascending.
        pairs: N_d, from 0 to len(scales) times N.

    Returns:
        {scale: its drafters ascending}, for each of the scales.
    """
    layers = scores.shape[1]
    assert 0 <= pairs <= layers * len(scales), (pairs, layers, len(scales))
    # best[n]: least sum with n pairs in the layers so far; last[layer][n]: the scales of that
    # layer among them. A knapsack whose items are the scales a layer stays a drafter for.
    best = np.full(pairs + 1, np.inf)
    best[0] = 0.0
    last = np.zeros((layers, pairs + 1), dtype=np.int64)
    for layer in range(layers):
        sums = np.concatenate(([0.0], np.cumsum(scores[list(scales), layer])))
        grown = np.full((len(sums), pairs + 1), np.inf)
        for kept in range(min(len(sums), pairs + 1)):
            grown[kept, kept:] = best[: pairs + 1 - kept] + sums[kept]
        last[layer] = grown.argmin(0)
        best = grown.min(0)
    drafters: dict[int, list[int]] = {scale: [] for scale in scales}
    left = pairs
    for layer in reversed(range(layers)):
        kept = int(last[layer, left])
        left -= kept
        for scale in scales[:kept]:
            drafters[scale].insert(0, layer)
    return {scale: tuple(row) for scale, row in drafters.items()}


def agreement(own: Numbers, top: Numbers, scales: Sequence[int], pairs: int) -> float | None:
    """Share of the drafter pairs that two halves of the pictures, every other one, agree on.

    Args:
        own, top: as for `selectivity`; scales, pairs: as for `nested_drafters`.

    Returns:
        None for a single picture.
    """
    if len(own) < 2:
        return None
    chosen = []
    for half in (slice(0, None, 2), slice(1, None, 2)):
        scores = z_scores(selectivity(own[half], top[half]).mean(-1))
        drafters = nested_drafters(scores, scales, pairs)
        chosen.append({(scale, layer) for scale, row in drafters.items() for layer in row})
    return len(chosen[0] & chosen[1]) / pairs


def mass_of_later_scales(mass: Numbers) -> Numbers:
    """(K - 1, N, H) attention each source scale gets from later scales, as HeatKV ranks heads by:
    the mean over the target scales that come after it; arXiv 2605.14877.

    Args:
        mass: (K target, K source, N, H).
    """
    scales = len(mass)
    return np.stack([mass[source + 1 :, source].mean(0) for source in range(scales - 1)])


def share_carrying(mass: Numbers, part: float = CARRIED) -> float:
    """The least share of the entries that together hold `part` of the sum; 0 where it is 0."""
    largest = np.sort(mass, axis=None)[::-1]
    sums = np.cumsum(largest)
    if not largest.size or sums[-1] <= 0:
        return 0.0
    return float((np.searchsorted(sums, part * sums[-1]) + 1) / largest.size)
