"""Where codes of blocks of coefficients lie, and from codes to values and back: two ways to say it.
Knows channels, units and levels; nothing of what the values are.

Codes are sorted by level, from 1 bit on. Both ways hold as many codes of each level.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scalekv.kv.coded.levels import LEVELS, SMALL

Levels = NDArray[np.uint8]
Numbers = NDArray[np.float32]

_MIDDLES = tuple(2.0 ** (bits - 1) for bits in LEVELS[1:])
"""Per level above 0 the code where values begin that are not negative."""

_HALVES = np.array([0, *_MIDDLES], dtype=np.float32)


class Places(Protocol):
    """Of blocks (…, n, B): rows of n coefficients, of one or several units, for B pictures.

    Attributes:
        codes: of each level above 0, of one picture.
    """

    codes: list[int]

    @property
    def nbytes(self) -> int:
        """Of its tables."""
        ...

    def values(self, levels: Sequence[Tensor], pictures: int) -> list[Tensor]:
        """What codes (uint8, flat) of each level above 0 stand for: blocks, float32; coefficients
        without bits are 0."""
        ...

    def quantised(self, blocks: Sequence[Tensor]) -> list[Tensor]:
        """Values to codes of each level above 0."""
        ...


class ByCoefficient:
    """A table of all coefficients with bits, sorted by level; in a level by block, row and
    coefficient. Few operations, for small maps."""

    def __init__(
        self,
        levels: Sequence[Levels],
        steps: Sequence[Numbers],
        sizes: Sequence[Sequence[int]],
        device: torch.device,
    ) -> None:
        """Of each block (…, U), units of `sizes`, levels and quantiser steps."""
        each, step = (_flat(kind, sizes) for kind in (levels, steps))
        order = np.argsort(each, kind="stable")
        bounds = np.searchsorted(each[order], np.arange(1, len(LEVELS) + 1))
        order = order[bounds[0] :]
        self._shapes = [(*x.shape[:-1], sum(of)) for x, of in zip(levels, sizes, strict=True)]
        self._sizes = [math.prod(shape) for shape in self._shapes]
        self.codes = [int(end - start) for start, end in pairwise(bounds)]
        self._index = torch.from_numpy(order).to(device)
        self._steps = torch.from_numpy(step[order].astype(np.float32)).to(device)

    @property
    def nbytes(self) -> int:
        """See `Places`."""
        return self._index.nbytes + self._steps.nbytes

    def values(self, levels: Sequence[Tensor], pictures: int) -> list[Tensor]:
        """See `Places`."""
        codes = torch.cat(list(levels)).float().view(-1, pictures)
        for level, half in zip(codes.split(self.codes), _MIDDLES, strict=True):
            level.add_(0.5 - half)
        codes.mul_(self._steps.unsqueeze(1))
        if pictures == 1:
            found = codes.new_zeros(sum(self._sizes)).scatter_(0, self._index, codes.view(-1))
        else:
            found = codes.new_zeros((sum(self._sizes), pictures)).index_copy_(0, self._index, codes)
        blocks = found.split(self._sizes)
        return [
            block.view(*shape, pictures) for block, shape in zip(blocks, self._shapes, strict=True)
        ]

    def quantised(self, blocks: Sequence[Tensor]) -> list[Tensor]:
        """See `Places`."""
        pictures = blocks[0].shape[-1] if blocks else 1
        flat = torch.cat([block.reshape(-1, pictures) for block in blocks])
        codes = flat.index_select(0, self._index).div_(self._steps.unsqueeze(1))
        for level, half in zip(codes.split(self.codes), _MIDDLES, strict=True):
            level.clamp_(-half, half - 0.5).add_(half)
        return list(codes.to(torch.uint8).flatten().split([n * pictures for n in self.codes]))


def _flat(blocks: Sequence[NDArray[Any]], sizes: Sequence[Sequence[int]]) -> NDArray[Any]:
    """Of blocks (…, U) what every coefficient has."""
    found = [x.repeat(of, axis=-1).ravel() for x, of in zip(blocks, sizes, strict=True)]
    return np.concatenate(found) if found else np.empty(0)


class ByRow:
    """For each block, of one unit, a table of rows sorted by level. Codes of a level are sorted by
    block, row, coefficient and picture. Small tables, for large maps."""

    def __init__(
        self,
        levels: Sequence[Levels],
        steps: Sequence[Numbers],
        sizes: Sequence[Sequence[int]],
        device: torch.device,
    ) -> None:
        """See `ByCoefficient`; every block has one unit."""
        self._shapes = [(*x.shape[:-1], *of) for x, of in zip(levels, sizes, strict=True)]
        flat = [x.ravel() for x in levels]
        order = [np.argsort(x, kind="stable").astype(np.int32) for x in flat]
        self._rows = [len(x) for x in flat]
        self._counts = [np.bincount(x, minlength=len(LEVELS)).tolist() for x in flat]
        self.codes = [
            sum(shape[-1] * of[level] for shape, of in zip(self._shapes, self._counts, strict=True))
            for level in range(1, len(LEVELS))
        ]
        places = [np.argsort(x, kind="stable").astype(np.int32) for x in order]
        halves = [_HALVES[x] for x in flat]
        self._order, self._places, self._steps, self._halves = (
            torch.from_numpy(
                np.concatenate([np.empty(0), *(x.ravel() for x in each)]).astype(dtype)
            ).to(device)
            for each, dtype in (
                (order, np.int32),
                (places, np.int32),
                (steps, np.float32),
                (halves, np.float32),
            )
        )

    @property
    def nbytes(self) -> int:
        """See `Places`."""
        return 4 * self._order.nbytes

    def values(self, levels: Sequence[Tensor], pictures: int) -> list[Tensor]:
        """See `Places`."""
        by_block = zip(
            *(
                level.split(
                    [
                        shape[-1] * of[number] * pictures
                        for shape, of in zip(self._shapes, self._counts, strict=True)
                    ]
                )
                for number, level in enumerate(levels, 1)
            ),
            strict=True,
        )
        offsets = self._steps * (0.5 - self._halves)
        tables = zip(
            *(x.split(self._rows) for x in (self._places, self._steps, offsets)),
            self._shapes,
            self._counts,
            by_block,
            strict=True,
        )
        blocks = []
        for places, steps, offset, shape, counts, pieces in tables:
            width = shape[-1] * pictures
            none = pieces[0].new_zeros(counts[0] * width)
            codes = torch.cat((none, *pieces)).view(-1, width).index_select(0, places)
            values = torch.addcmul(offset.unsqueeze(1), codes.float(), steps.unsqueeze(1))
            blocks.append(values.view(*shape, pictures))
        return blocks

    def quantised(self, blocks: Sequence[Tensor]) -> list[Tensor]:
        """See `Places`."""
        levels: list[list[Tensor]] = [[] for _ in LEVELS]
        inverse = torch.where(self._steps > 0, 1 / self._steps, 0)
        tables = zip(
            blocks,
            *(x.split(self._rows) for x in (self._order, inverse, self._halves)),
            self._counts,
            strict=True,
        )
        for block, order, scale, half, counts in tables:
            rows = block.reshape(len(order), block.shape[-2] * block.shape[-1])
            codes = torch.addcmul(half.unsqueeze(1), rows, scale.unsqueeze(1)).clamp_min_(0)
            codes = codes.clamp_max_((2 * half - 0.5).unsqueeze(1)).to(torch.uint8)
            codes = codes.index_select(0, order)
            for level, piece in enumerate(codes.split(counts)):
                levels[level].append(piece.flatten())
        return [torch.cat(pieces) for pieces in levels[1:]]


def is_small(channels: int, tokens: int) -> bool:
    """Whether maps of so many tokens together have a table of every coefficient."""
    return channels * tokens <= SMALL
