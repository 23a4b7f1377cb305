"""How far two pictures are from one another, and how sure a mean over prompts is.

Pictures are (H, W, 3) uint8. Knows nothing of models, policies or files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from scalekv.infinity_patch.likeness import Likeness, likeness
from scripts.builtin.backbone import as_input, backbone, feature_distance

Pixels = npt.NDArray[np.uint8]
Values = npt.NDArray[np.float64]

RESAMPLES = 2000


def alike(picture: Pixels, reference: Pixels) -> Likeness:
    """PSNR and SSIM of two pictures of one size."""
    return likeness(Image.fromarray(picture), Image.fromarray(reference))


@torch.inference_mode()
def perceptual_distance(a: Pixels, b: Pixels) -> float:
    """`feature_distance` of two pictures."""
    net = backbone()
    return float(feature_distance(net.stages(as_input([a])), net.stages(as_input([b]))))


def kernel_distance(a: npt.NDArray[np.floating], b: npt.NDArray[np.floating]) -> float:
    """Squared maximum mean discrepancy of two sets of features (N, F), (M, F), unbiased.

    With the cubic polynomial kernel, as KID takes it (Binkowski et al. 2018); near 0 for two
    samples of one distribution, and then as often below 0 as above.
    """
    x, y = a.astype(np.float64), b.astype(np.float64)

    def kernel(p: Values, q: Values) -> Values:
        return np.asarray((p @ q.T / p.shape[1] + 1) ** 3)

    def within(p: Values) -> float:
        k = kernel(p, p)
        return float((k.sum() - np.trace(k)) / (len(p) * (len(p) - 1)))

    return within(x) + within(y) - 2 * float(kernel(x, y).mean())


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
