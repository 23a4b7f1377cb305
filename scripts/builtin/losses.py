"""How far a decoded picture is from the drawing, as the picture tokenizer's trainings see it.

Knows pixels; what a decoder's maps held is handed in. Nothing of bits.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

EDGES = 0.5
PEAKS = 1e-3  # of what a decoder's norms met beyond the limit, see peaks.py
CORNERS = 0.05  # in a mean over all pixels they would weigh nothing, and specks would stay there
CORNER = 2  # pixels of a side


def edge_loss(x: Tensor, y: Tensor) -> Tensor:
    """Mean absolute difference of the horizontal and vertical gradients."""
    dx = (x[..., :, 1:] - x[..., :, :-1]) - (y[..., :, 1:] - y[..., :, :-1])
    dy = (x[..., 1:, :] - x[..., :-1, :]) - (y[..., 1:, :] - y[..., :-1, :])
    return dx.abs().mean() + dy.abs().mean()


def corner_loss(x: Tensor, y: Tensor) -> Tensor:
    """Mean absolute difference in the four corners, where a decoder sees zeros on two sides."""
    ends = slice(CORNER), slice(-CORNER, None)
    apart = [x[..., rows, columns] - y[..., rows, columns] for rows in ends for columns in ends]
    return torch.stack(apart).abs().mean()


def picture_loss(y: Tensor, x: Tensor, beyond: Tensor) -> Tensor:
    """Of decoded pictures y (B, 3, H, W) and drawings x in [-1, 1]; `beyond` is `Peaks.take`'s."""
    loss = F.l1_loss(y, x) + F.mse_loss(y, x) + EDGES * edge_loss(y, x)
    return loss + CORNERS * corner_loss(y, x) + PEAKS * beyond
