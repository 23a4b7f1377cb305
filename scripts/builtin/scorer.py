"""A small judge of what a picture shows, trained apart from the generator.

Discriminant analysis of the features of an ImageNet network: every concept has a place, a caption
is looked for at the place of its concept, and the cosine is the score. Layers trained on these few
drawings know those by heart and judge others worse. Knows nothing of the generator.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from scalekv.infinity_patch.evaluation.backbone import as_input, backbone
from scalekv.kv.errors import UserError
from scripts.builtin.dataset import SIZE

WEIGHTS = Path(__file__).with_name("scorer.safetensors")
FEATURES, WIDTH = 1280, 192
SHRINKAGE = 0.5  # of the mean variance, added in every direction


class Scorer:
    """Pictures' features and concepts in one space, as unit vectors.

    middle (F,) and axes (F, W) take features there; places (C, W) are where the concepts are.
    """

    def __init__(self, middle: Tensor, axes: Tensor, places: Tensor, concepts: Sequence[str]):
        self.middle, self.axes, self.places = middle, axes, places
        self.number = {concept: i for i, concept in enumerate(concepts)}

    @classmethod
    def fitted(cls, features: Tensor, concepts: Sequence[str], styles: Sequence[str]) -> Scorer:
        """Of features (N, V, F) of N drawings in V views each, with their concepts and styles.

        First what should not count is evened out: what views of one drawing differ by, and what
        two styles of one concept do (their covariances, less what all views or styles have in
        common, and some of the mean variance in every direction); then the main axes of what
        concepts differ by are kept.
        """
        middle, own = features.mean((0, 1)), features.mean(1)
        views = features - features.mean(0) - (own - middle)[:, None]
        drawings: dict[str, list[int]] = {}
        for i in sorted(range(len(concepts)), key=lambda i: styles[i]):
            drawings.setdefault(concepts[i], []).append(i)
        pairs = torch.tensor([both for both in drawings.values() if len(both) == 2])
        between = own[pairs[:, 0]] - own[pairs[:, 1]]
        within = _scatter(views.flatten(0, 1)) + _scatter(between - between.mean(0)) / 2
        within += within.diag().mean() * SHRINKAGE * torch.eye(len(within))
        even = torch.linalg.inv(torch.linalg.cholesky(within))
        means = torch.stack([own[of].mean(0) for of in drawings.values()])
        _, _, axes = torch.linalg.svd((means - middle) @ even.T, full_matrices=False)
        kept = even.T @ axes[:WIDTH].T
        kept /= ((means - middle) @ kept).std()  # changes no cosine
        return cls(middle, kept, (means - middle) @ kept, list(drawings))

    def captions(self, concepts: Sequence[str]) -> Tensor:
        """Of the concepts that captions name, (B, W)."""
        return F.normalize(self.places[[self.number[concept] for concept in concepts]], dim=-1)

    def pictures(self, features: Tensor) -> Tensor:
        """Of pooled features (B, F), (B, W)."""
        return F.normalize((features - self.middle) @ self.axes, dim=-1)

    def save(self, path: Path) -> None:
        """Write it in bfloat16, the concepts beside the numbers."""
        tensors = {"middle": self.middle, "axes": self.axes, "places": self.places}
        save_file(
            {name: value.to(torch.bfloat16).contiguous() for name, value in tensors.items()},
            path,
            metadata={"concepts": json.dumps(list(self.number))},
        )


def _scatter(x: Tensor) -> Tensor:
    """Covariance (F, F) of rows (N, F) that are zero on average."""
    return x.T @ x / len(x)


def load_scorer(path: Path = WEIGHTS) -> Scorer:
    """The trained scorer.

    Raises:
        UserError: there is none.
    """
    if not path.is_file():
        raise UserError(
            "the scorer's weights are not there",
            where=str(path),
            fix="python -m scripts.builtin.train_scorer",
        )
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name).float() for name in ("middle", "axes", "places")}
        return Scorer(**tensors, concepts=json.loads(file.metadata()["concepts"]))


def as_judged(picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """A picture (side, side, 3) at the size of the drawings that the judge is made from."""
    if picture.shape[0] == SIZE:
        return picture
    return np.asarray(Image.fromarray(picture).resize((SIZE, SIZE), Image.Resampling.BOX))


@torch.inference_mode()
def pooled_features(pictures: Sequence[npt.NDArray[np.uint8]], batch: int = 16) -> Tensor:
    """What the ImageNet network sees in pictures of one size, (B, FEATURES)."""
    net = backbone()
    parts = [pictures[start : start + batch] for start in range(0, len(pictures), batch)]
    return torch.cat([net.pooled(as_input(part)) for part in parts])
