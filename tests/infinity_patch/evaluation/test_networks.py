"""Networks are asked as they are to be, and what cannot be had is said. LPIPS's and FID's own
weights are not here: networks of the same interface stand in, and no figure is claimed."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch

from scalekv.cli.eval.asked import NETWORK_NAMES
from scalekv.infinity_patch.evaluation.networks import (
    NETWORKS,
    FeatureDistance,
    Lpips,
    Missing,
    fid,
)

WHITE, BLACK = (np.full((16, 16, 3), value, np.uint8) for value in (255, 0))


def test_lpips_is_given_pictures_in_0_to_1() -> None:
    seen: list[torch.Tensor] = []

    def network(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        seen.extend((a, b))
        return (a - b).square().mean()

    assert Lpips(network).of(WHITE, BLACK) == 1.0
    picture, reference = seen
    assert picture.shape == reference.shape == (1, 3, 16, 16)
    assert picture.max() == 0
    assert reference.min() == reference.max() == 1
    assert Lpips(network).of(WHITE, WHITE) == 0.0


def test_lpips_is_torchmetrics_with_alexnet_and_normalised(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    class Metric(torch.nn.Module):
        def __init__(self, **given: Any) -> None:
            super().__init__()
            asked.update(given)

        def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return (a - b).abs().mean()

    import torchmetrics.image.lpip as module

    monkeypatch.setattr(module, "LearnedPerceptualImagePatchSimilarity", Metric)
    assert Lpips().of(WHITE, BLACK) == 1.0
    assert asked == {"net_type": "alex", "normalize": True}


def test_weights_that_cannot_be_fetched_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: Any, **given: Any) -> float:
        raise URLError("no route to host")

    import torchmetrics.image.lpip as module

    monkeypatch.setattr(module, "LearnedPerceptualImagePatchSimilarity", offline)
    with pytest.raises(Missing, match=r"weights of AlexNet cannot be fetched.*no route"):
        Lpips()

    with pytest.raises(Missing, match="weights of clean-fid's Inception cannot be fetched"):
        fid(Path("a"), Path("b"), compute=offline)


def test_fid_is_clean_fids_of_two_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[Any] = []

    def compute_fid(reference: str, pictures: str, **how: Any) -> float:
        asked.extend((reference, pictures, how["mode"]))
        return 2.5

    package, module = ModuleType("cleanfid"), ModuleType("cleanfid.fid")
    module.compute_fid = compute_fid  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cleanfid", package)
    monkeypatch.setitem(sys.modules, "cleanfid.fid", module)
    assert fid(tmp_path / "full", tmp_path / "less") == 2.5
    assert asked == [str(tmp_path / "full"), str(tmp_path / "less"), "clean"]


def test_every_network_can_be_named() -> None:
    assert set(NETWORK_NAMES) == NETWORKS.keys()


def test_what_is_not_installed_is_named() -> None:
    lpips = NETWORKS["lpips"]
    assert lpips.installed_by == "torchvision"
    nowhere = type(lpips)("X", {"no_such_module": "no-such-package"}, None)
    assert nowhere.missing == "not installed: no-such-package"


def test_the_feature_distance_is_that_of_the_scripts() -> None:
    pytest.importorskip("efficientnet_lite_pytorch")
    from scripts.evaluate.measures import perceptual_distance

    rng = np.random.default_rng(0)
    a, b = (rng.integers(0, 256, (64, 64, 3), dtype=np.uint8) for _ in range(2))
    assert FeatureDistance().of(a, b) == pytest.approx(perceptual_distance(a, b))
    assert FeatureDistance().of(a, a) == pytest.approx(0, abs=1e-5)
