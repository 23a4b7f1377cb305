"""How alike two pictures are: PSNR and SSIM, as the papers report them. Knows pixels alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchmetrics.functional.image import (
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
)

from scalekv.kv.errors import UserError

WHITE = 255.0


@dataclass(frozen=True)
class Likeness:
    """How alike a picture is to a reference.

    psnr: peak signal-to-noise ratio over all pixels and colours in dB, infinite where equal;
    ssim: structural similarity, 1 where equal, with the Gaussian window of 11 pixels and the
    constants of Wang et al. 2004, in the mean over colours; identical: every pixel is the same.
    """

    psnr: float
    ssim: float
    identical: bool


def likeness(
    picture: Image.Image, reference: Image.Image, *, device: torch.device | str = "cpu"
) -> Likeness:
    """Compares two pictures of one size.

    Args:
        device: that computes, in float64: SSIM of a megapixel takes a CPU core many seconds.

    Raises:
        UserError: they differ in size.
    """
    if picture.size != reference.size:
        raise UserError(
            f"pictures of {picture.width}x{picture.height} and "
            f"{reference.width}x{reference.height} pixels",
            rule="only pictures of one size can be compared",
        )
    mine, other = (_pixels(image).to(device) for image in (picture, reference))
    ssim = structural_similarity_index_measure(mine, other, data_range=WHITE)
    assert isinstance(ssim, Tensor)  # a pair only where its map is asked for too
    return Likeness(
        psnr=float(peak_signal_noise_ratio(mine, other, data_range=WHITE)),
        ssim=float(ssim),
        identical=bool(torch.equal(mine, other)),
    )


def _pixels(image: Image.Image) -> Tensor:
    """(1, 3, H, W) in float64: exact for squares of bytes."""
    array = np.asarray(image.convert("RGB"), dtype=np.float64)
    return torch.from_numpy(array).permute(2, 0, 1)[None]
