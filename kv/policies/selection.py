"""Which of the newest map's tokens observe for a policy. Knows maps; nothing here waits for the
device. What policies do to scores is in `scalekv.kv.kernels`."""

from __future__ import annotations

from fractions import Fraction
from functools import cache, lru_cache

import torch
from torch import Tensor


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
