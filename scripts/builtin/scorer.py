"""A small judge of how well a picture fits a caption, trained apart from the generator.

Captions, in the words of the built-in model's vocabulary, are mapped to where the whitened features
of an ImageNet network put the drawings; the cosine is the score. Linear discriminant axes are all
that happens to the features: layers trained on these few drawings know those by heart and judge
others worse. Knows nothing of the generator.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor, nn

from scalekv.infinity_patch.hub import BUILT_IN
from scalekv.kv.errors import UserError
from scripts.builtin.backbone import as_input, backbone

WEIGHTS = Path(__file__).with_name("scorer.safetensors")
FEATURES, WIDTH = 1280, 128
LONGEST = 32  # tokens of a caption


def tokenizer() -> Tokenizer:
    """The built-in model's own, which knows every word of the captions."""
    found: Tokenizer = Tokenizer.from_file(str(BUILT_IN / "emoji" / "text_encoder/tokenizer.json"))
    found.enable_padding(pad_id=0, length=LONGEST)
    found.enable_truncation(LONGEST)
    return found


class Scorer(nn.Module):
    """Captions and picture features into one space, as unit vectors (B, WIDTH)."""

    middle: Tensor
    axes: Tensor

    def __init__(self, vocabulary: int):
        super().__init__()
        self.words = nn.Embedding(vocabulary, WIDTH, padding_idx=0)
        self.text_in = nn.Linear(WIDTH, WIDTH)
        self.text_out = nn.Linear(WIDTH, WIDTH)
        self.register_buffer("middle", torch.zeros(FEATURES))
        self.register_buffer("axes", torch.zeros(FEATURES, WIDTH))

    def whiten(self, features: Tensor) -> None:
        """Take middle and axes from features (N, V, F) of N drawings in V views each.

        First what views of one drawing differ by is evened out (their covariance and as much
        again in every direction), so that blur and size count little; then the main axes of what
        drawings differ by are kept, with equal spread.
        """
        self.middle = features.mean((0, 1))
        own = features.mean(1)
        within = (features - own[:, None]).flatten(0, 1)
        covariance = within.T @ within / len(within)
        covariance += covariance.diag().mean() * torch.eye(len(covariance))
        even = torch.linalg.inv(torch.linalg.cholesky(covariance))
        _, spread, axes = torch.linalg.svd((own - self.middle) @ even.T, full_matrices=False)
        self.axes = even.T @ axes[:WIDTH].T / spread[:WIDTH] * len(features) ** 0.5

    def captions(self, ids: Tensor) -> Tensor:
        """Of token ids (B, LONGEST), 0 where there is none: a sum over the words, then one layer.

        A bag of words: it cannot tell "a cat and a dog" from "a dog and a cat".
        """
        pooled = self.words(ids).sum(1)
        out: Tensor = self.text_out(F.gelu(self.text_in(pooled))) + pooled
        return F.normalize(out, dim=-1)

    def pictures(self, features: Tensor) -> Tensor:
        """Of pooled features (B, FEATURES)."""
        return F.normalize((features - self.middle) @ self.axes, dim=-1)


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
    scorer = Scorer(tokenizer().get_vocab_size())
    scorer.load_state_dict({name: value.float() for name, value in load_file(path).items()})
    return scorer.eval().requires_grad_(False)


def ids_of(captions: Sequence[str]) -> Tensor:
    """Token ids (B, LONGEST) of captions."""
    return torch.tensor([found.ids for found in tokenizer().encode_batch(list(captions))])


@torch.inference_mode()
def pooled_features(pictures: Sequence[npt.NDArray[np.uint8]], batch: int = 16) -> Tensor:
    """What the ImageNet network sees in pictures of one size, (B, FEATURES)."""
    net = backbone()
    parts = [pictures[start : start + batch] for start in range(0, len(pictures), batch)]
    return torch.cat([net.pooled(as_input(part)) for part in parts])
