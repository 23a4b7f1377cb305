"""Distances of pictures that only the scripts take: (H, W, 3) uint8, or sets of their features.

Knows nothing of models, policies or files.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from scalekv.infinity_patch.evaluation.backbone import as_input, backbone, feature_distance
from scalekv.infinity_patch.evaluation.statistics import Values
from scalekv.infinity_patch.likeness import Likeness, likeness

Pixels = npt.NDArray[np.uint8]


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
