"""Tensor steps that selection policies are made of: observation windows, attention scores,
pooling on maps, the best slots. Knows no policy; nothing here waits for the device."""

from __future__ import annotations

from fractions import Fraction
from functools import cache, lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from scalekv.kv.schedule import Schedule

_CHUNK = 1024  # keys turned to float32 at a time, which bounds the copy


@cache
def window_grid(height: int, width: int, most: int) -> tuple[int, int]:
    """Rows and columns of the largest grid of patches with at most `most` (at least 1) of them.

    A grid has no more rows or columns than the map. Among grids of equally many patches the one
    with patches closest to square wins, then the one with fewer rows.
    """

    def rank(rows: int, columns: int) -> tuple[int, Fraction, int]:
        aspect = Fraction(height * columns, width * rows)
        return -rows * columns, max(aspect, 1 / aspect), rows

    most = max(most, 1)
    grids = ((rows, min(width, most // rows)) for rows in range(1, min(height, most) + 1))
    return min(grids, key=lambda grid: rank(*grid))


@lru_cache(maxsize=64)  # layers, and pictures, share a scale's
def window_tokens(height: int, width: int, most: int, device: torch.device) -> Tensor:
    """(W,) int64 ascending: the central token of each patch of `window_grid`, row-major.

    Of the two middle rows or columns of an even patch it is the first, as in ScaleKV's code. Not to
    be written to: the tensor is kept for the next call.
    """
    rows, columns = window_grid(height, width, most)
    # An ordinary tensor even under inference mode: later calls outside it get the same one.
    with torch.inference_mode(False):
        row, column = _centres(height, rows, device), _centres(width, columns, device)
        return (row[:, None] * width + column).flatten()


def _centres(length: int, parts: int, device: torch.device) -> Tensor:
    # Part i spans [i*length/parts, (i+1)*length/parts). Made on the device, not copied there,
    # so that the host does not wait.
    edges = torch.arange(parts + 1, device=device) * length // parts
    return (edges[:-1] + edges[1:] - 1) // 2


def attention_mass(q: Tensor, k: Tensor) -> Tensor:
    """(B, H, T) float32: attention each cached token gets, summed over the queries.

    Args:
        q: (B, H, W, D) the observing queries, scaled: softmax(q k^T) is their attention.
        k: (B, H, T, D) everything cached.

    Memory is that of two (B, H, W, T) tensors, whatever the dtype of k.
    """
    batch, heads, observers, _ = q.shape
    tokens = k.shape[2]
    # Autocast would turn the product back to half precision.
    with torch.autocast(q.device.type, enabled=False):
        queries = q.float()
        logits = queries.new_empty(batch, heads, observers, tokens)
        for start in range(0, tokens, _CHUNK):
            keys = k[:, :, start : start + _CHUNK].float()
            logits[..., start : start + _CHUNK] = queries @ keys.mT
        return logits.softmax(dim=-1).sum(dim=2)


def logit_sums(q: Tensor, k: Tensor) -> Tensor:
    """(B, H, T) float32: q k^T summed over the queries, with no softmax.

    Args:
        q: (B, H, W, D) the observing queries.
        k: (B, H, T, D) everything cached.
    """
    with torch.autocast(q.device.type, enabled=False):
        query = q.float().sum(dim=2, keepdim=True)  # the sum of products is the product of the sum
        parts = [(query @ keys.float().mT).squeeze(2) for keys in k.split(_CHUNK, dim=2)]
        return torch.cat(parts, dim=2)


def pooled_on_maps(
    scores: Tensor, positions: Tensor | None, schedule: Schedule, scales: int, kernel: int
) -> Tensor:
    """(B, H, T): scores averaged with their neighbours on the 2-D map of each token's own scale.

    Args:
        scores: (B, H, T) of the cached tokens.
        positions: (B, H, T) their places among all tokens; None: 0 to T - 1.
        scales: the first `scales` scales of the schedule are those that can be cached.
        kernel: odd side of the square neighbourhood; only tokens still cached count in it.
    """
    rows, tokens = scores.flatten(0, 1), schedule.before(scales)
    # scores and, below them, what is held: ones and zeros, which are pooled alike
    if positions is None:
        canvas = torch.cat((rows, rows.new_ones(1, tokens)))
    else:
        places = positions.flatten(0, 1).long()
        canvas = rows.new_zeros(2 * len(rows), tokens)
        canvas[: len(rows)].scatter_(1, places, rows)
        canvas[len(rows) :].scatter_(1, places, 1.0)
    sums = torch.empty_like(canvas)
    for scale in range(scales):
        span = slice(schedule.before(scale), schedule.before(scale + 1))
        maps = canvas[:, span].unflatten(1, schedule.scales[scale])
        sums[:, span] = F.avg_pool2d(
            maps, kernel, stride=1, padding=kernel // 2, divisor_override=1
        ).flatten(1)
    pooled = sums[: len(rows)].div_(sums[len(rows) :].clamp_min_(1.0))
    return (pooled if positions is None else pooled.gather(1, places)).view_as(scores)


def best_slots(scores: Tensor, count: int) -> Tensor:
    """(B, H, count) int64 ascending: the slots of the highest scores; ties go to earlier slots."""
    order = scores.argsort(dim=-1, descending=True, stable=True)
    return order[..., :count].sort(dim=-1).values
