"""Which bits each channel of each unit of a map has, and so where its codes lie. Knows importances
and thresholds; nothing of values."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from scalekv.kv.coded.constants import Constants
from scalekv.kv.coded.levels import LEVELS, OFFSETS, STEPS
from scalekv.kv.coded.units import MapUnits

_KEPT = 1 << 20  # bytes of layouts that are kept for a layer; others are made whenever needed


@dataclass(frozen=True, eq=False)
class Layout:
    """A map's quantisers, and where each coefficient's code lies. Rows are the C = 2 P H D
    channels: keys before values, middle before side, heads, channels of the basis.

    Codes are sorted by level, from 1 bit on; in a level by unit; in a unit by channel; in a channel
    by picture, then coefficient.

    Attributes:
        levels: (C, U) uint8 index into `LEVELS`.
        order: (U, C) int32 channels sorted by level.
        counts: [unit][level] channels.
    """

    units: MapUnits
    levels: Tensor
    order: Tensor
    counts: tuple[tuple[int, ...], ...]

    @property
    def nbytes(self) -> int:
        """Of its tensors, `places` included."""
        return self.levels.nbytes + 2 * self.order.nbytes

    @cached_property
    def places(self) -> Tensor:
        """(U, C) int32: where among the sorted channels each one is."""
        return self.order.argsort(dim=1).int()

    def codes(self, level: int, pictures: int) -> list[int]:
        """How many of a level there are in each unit, of all pictures together."""
        sizes = self.units.sizes
        return [n * row[level] * pictures for n, row in zip(sizes, self.counts, strict=True)]

    @property
    def most(self) -> Tensor:
        """(C, U) float32: the largest code."""
        return self._each(tuple(2.0**bits - 1 for bits in LEVELS))

    @property
    def centre(self) -> Tensor:
        """(C, U) float32: a code c stands for c + 0.5 - centre steps; 0.5 for no bits, which is
        0."""
        return self._each(tuple(2.0 ** (bits - 1) for bits in LEVELS))

    @property
    def steps(self) -> Tensor:
        """(C, U) float32, in standard deviations; 0 for no bits."""
        return self._each(tuple(STEPS[bits] for bits in LEVELS))

    def _each(self, values: tuple[float, ...]) -> Tensor:
        table = torch.tensor(values, device=self.levels.device)
        return table.index_select(0, self.levels.flatten().int()).view(self.levels.shape)


class Layouts:
    """Of one layer's maps under one threshold after another; those used last are kept."""

    def __init__(
        self, constants: Constants, layer: int, parts: slice, device: torch.device
    ) -> None:
        self._constants, self._layer, self._parts, self._device = constants, layer, parts, device
        self._kept: OrderedDict[tuple[MapUnits, int], Layout] = OrderedDict()

    def of(self, units: MapUnits, threshold: int) -> Layout:
        """The layout of a map."""
        known = self._kept.pop((units, threshold), None)
        if known is None:
            known = self._made(units, threshold)
        self._kept[units, threshold] = known
        while sum(layout.nbytes for layout in self._kept.values()) > _KEPT:
            self._kept.popitem(last=False)
        return known

    @torch.inference_mode(False)  # kept, and used outside of it too
    def _made(self, units: MapUnits, threshold: int) -> Layout:
        importances = self._constants.importances(self._layer, self._parts, units)
        q = torch.from_numpy(importances).transpose(3, 4).flatten(0, 3)
        levels = torch.zeros(q.shape, dtype=torch.uint8)
        for offset in OFFSETS:
            levels += q >= threshold + offset
        counts = tuple(
            tuple(torch.bincount(some, minlength=len(LEVELS)).tolist()) for some in levels.mT
        )
        order = levels.mT.argsort(dim=1, stable=True).int()
        return Layout(units, levels.to(self._device), order.to(self._device), counts)
