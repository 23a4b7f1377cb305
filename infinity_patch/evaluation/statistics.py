"""A statistic over prompts and how sure it is. Knows numbers; nothing of pictures or files."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]

RESAMPLES = 2000


def interval(
    values: Sequence[float] | Values,
    statistic: Callable[[Values], Values],
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float, float]:
    """A statistic of `values` and the bounds of its percentile bootstrap interval.

    `statistic` reduces the last axis; `mean` and `median` below do. Equal values and seed give
    equal bounds. Infinite values are allowed with the median.
    """
    given = np.asarray(values, dtype=np.float64)
    rng = np.random.default_rng(seed)
    drawn = statistic(given[rng.integers(0, len(given), (RESAMPLES, len(given)))])
    edges = ((1 - level) / 2, (1 + level) / 2)
    low, high = np.quantile(drawn, edges, method="inverted_cdf")
    return float(statistic(given[None])[0]), float(low), float(high)


def mean(values: Values) -> Values:
    """The mean over the last axis."""
    return np.asarray(values.mean(-1))


def median(values: Values) -> Values:
    """The median over the last axis, the lower one of two; takes infinities."""
    return np.asarray(np.quantile(values, 0.5, axis=-1, method="inverted_cdf"))
