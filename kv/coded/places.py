"""Which coefficient each code of a level belongs to: two ways to say it, and to move numbers
between coefficients and codes. Knows channels, units and levels; nothing of what the numbers are.

Codes are sorted by level, from 1 bit on. Both ways hold as many codes of each level.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scalekv.kv.coded.levels import LEVELS, SMALL


class Places(Protocol):
    """Of the coefficients (C, B, n) of some maps, whose units are columns of n."""

    @property
    def nbytes(self) -> int:
        """Of its tables."""
        ...

    def gather(self, values: Tensor) -> list[Tensor]:
        """Of coefficients (C, B, n) those of each level above 0, flat."""
        ...

    def scatter(self, levels: Sequence[Tensor], pictures: int) -> Tensor:
        """The inverse: (C, B, n); those without bits are 0."""
        ...


def places_of(levels: NDArray[np.uint8], sizes: Sequence[int], device: torch.device) -> Places:
    """Of channels and units with levels (C, U), units of `sizes` coefficients: the quicker way."""
    if len(levels) * sum(sizes) <= SMALL:
        return ByCoefficient(levels, sizes, device)
    return ByUnit(levels, sizes, device)


class ByCoefficient:
    """A table of all coefficients with bits, sorted by level; in a level by picture, channel and
    coefficient. Few operations, for small maps."""

    def __init__(
        self, levels: NDArray[np.uint8], sizes: Sequence[int], device: torch.device
    ) -> None:
        each = np.repeat(levels, sizes, axis=1).ravel()
        order = np.argsort(each, kind="stable")
        bounds = np.searchsorted(each[order], np.arange(1, len(LEVELS) + 1))
        self._channels, self._coefficients = len(levels), sum(sizes)
        self._counts = [int(end - start) for start, end in pairwise(bounds)]
        self._index = torch.from_numpy(order[bounds[0] :]).to(device)

    @property
    def nbytes(self) -> int:
        """See `Places`."""
        return self._index.nbytes

    def gather(self, values: Tensor) -> list[Tensor]:
        """See `Places`."""
        by_picture = values.transpose(0, 1).flatten(1)
        codes = by_picture.index_select(1, self._index)
        return [level.flatten() for level in codes.split(self._counts, dim=1)]

    def scatter(self, levels: Sequence[Tensor], pictures: int) -> Tensor:
        """See `Places`."""
        codes = torch.cat([level.view(pictures, -1) for level in levels], dim=1)
        values = codes.new_zeros((pictures, self._channels * self._coefficients))
        values.scatter_(1, self._index.expand(pictures, -1), codes)
        return values.view(pictures, self._channels, -1).transpose(0, 1).contiguous()


class ByUnit:
    """For each unit a table of channels sorted by level. Codes of a level are sorted by unit,
    channel, picture and coefficient. Small tables, for large maps."""

    def __init__(
        self, levels: NDArray[np.uint8], sizes: Sequence[int], device: torch.device
    ) -> None:
        order = np.argsort(levels.T, axis=1, kind="stable").astype(np.int32)
        places = np.empty_like(order)
        channels = np.broadcast_to(np.arange(len(levels), dtype=np.int32), order.shape)
        np.put_along_axis(places, order, channels, axis=1)
        self._sizes = list(sizes)
        self._counts = [np.bincount(row, minlength=len(LEVELS)).tolist() for row in levels.T]
        self._order, self._places = (torch.from_numpy(x).to(device) for x in (order, places))

    @property
    def nbytes(self) -> int:
        """See `Places`."""
        return self._order.nbytes + self._places.nbytes

    def gather(self, values: Tensor) -> list[Tensor]:
        """See `Places`."""
        levels: list[list[Tensor]] = [[] for _ in LEVELS]
        units = values.split(self._sizes, dim=2)
        for unit, order, counts in zip(units, self._order, self._counts, strict=True):
            ordered = unit.index_select(0, order)
            for level, piece in enumerate(ordered.split(counts)):
                levels[level].append(piece.flatten())
        return [torch.cat(pieces) for pieces in levels[1:]]

    def scatter(self, levels: Sequence[Tensor], pictures: int) -> Tensor:
        """See `Places`."""
        by_unit = zip(
            *(
                level.split(sizes)
                for level, sizes in zip(levels, self._codes(pictures), strict=True)
            ),
            strict=True,
        )
        values = levels[0].new_empty((len(self._order[0]), pictures, sum(self._sizes)))
        units = values.split(self._sizes, dim=2)
        tables = zip(units, self._sizes, self._places, self._counts, by_unit, strict=True)
        for unit, size, places, counts, pieces in tables:
            none = values.new_zeros((counts[0], pictures, size))
            ordered = torch.cat([none, *(piece.view(-1, pictures, size) for piece in pieces)])
            unit.copy_(ordered.index_select(0, places))
        return values

    def _codes(self, pictures: int) -> list[list[int]]:
        """[level][unit] codes, of all pictures together."""
        return [
            [
                size * row[level] * pictures
                for size, row in zip(self._sizes, self._counts, strict=True)
            ]
            for level in range(1, len(LEVELS))
        ]
