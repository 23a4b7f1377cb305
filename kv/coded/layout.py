"""Which bits each channel of each unit has, and so where its codes lie. Knows constants and
thresholds; nothing of values."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scalekv.kv.coded.constants import Constants
from scalekv.kv.coded.levels import KEPT, LEVELS, OCTAVE, OFFSETS, STEPS
from scalekv.kv.coded.units import MapUnits

Maps = tuple[MapUnits, ...]
Whole = NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Layout:
    """Quantisers of some maps in a row, and where each coefficient's code lies. Rows are the
    C = 2 P H D channels: keys before values, middle before side, heads, channels of the basis.

    Codes are sorted by level, from 1 bit on; in a level by map and unit; in a unit by channel; in a
    channel by picture, then coefficient.

    Attributes:
        sizes: coefficients of each of the U units of all maps.
        order: (U, C) int32 channels sorted by level.
        places: (U, C) int32: where among the sorted channels each one is.
        steps: (C, U) float32 of the quantiser, for a gain of 1; 0 for no bits.
        deltas: (C, U) float32: the same in standard deviations.
        counts: [unit][level] channels.
    """

    maps: Maps
    sizes: tuple[int, ...]
    order: Tensor
    places: Tensor
    steps: Tensor
    deltas: Tensor
    counts: tuple[tuple[int, ...], ...]

    @property
    def nbytes(self) -> int:
        """Of its tensors, once all are made."""
        return self.order.nbytes + self.places.nbytes + 3 * self.steps.nbytes

    @property
    def tokens(self) -> int:
        """Of all maps."""
        return sum(self.sizes)

    @cached_property
    def spans(self) -> tuple[slice, ...]:
        """Where each unit lies among the coefficients of all maps."""
        ends = accumulate(self.sizes)
        return tuple(slice(end - n, end) for end, n in zip(ends, self.sizes, strict=True))

    @cached_property
    def inverse(self) -> Tensor:
        """(C, U) float32: 1 / steps, and 0 for no bits."""
        return torch.where(self.steps > 0, 1 / self.steps, 0)

    def codes(self, level: int, pictures: int) -> list[int]:
        """How many of a level there are in each unit, of all pictures together."""
        return [n * row[level] * pictures for n, row in zip(self.sizes, self.counts, strict=True)]


class Layouts:
    """Of one layer's maps under one threshold after another; those used last are kept."""

    def __init__(
        self, constants: Constants, layer: int, parts: slice, device: torch.device
    ) -> None:
        self._constants, self._layer, self._parts, self._device = constants, layer, parts, device
        self._kept: OrderedDict[tuple[Maps, int], Layout] = OrderedDict()
        self._room = KEPT // constants.layers

    def of(self, maps: Maps, threshold: int) -> Layout:
        """The layout of some maps in a row."""
        key = (maps, threshold)
        known = self._kept.get(key)
        if known is not None:
            self._kept.move_to_end(key)
            return known
        self._kept[key] = known = self._made(maps, threshold)
        self._room -= known.nbytes
        while self._room < 0:
            self._room += self._kept.popitem(last=False)[1].nbytes
        return known

    @torch.inference_mode(False)  # kept, and used outside of it too
    def _made(self, maps: Maps, threshold: int) -> Layout:
        q = self._units(maps, self._constants.importances)
        variances = self._units(maps, self._constants.variances)
        levels = np.zeros(q.shape, dtype=np.uint8)
        for offset in OFFSETS:
            levels += q >= threshold + offset
        deltas = np.array([STEPS[bits] for bits in LEVELS], dtype=np.float32)[levels]
        steps = deltas * np.exp2(variances.astype(np.float32) / (2 * OCTAVE))
        order = np.argsort(levels.T, axis=1, kind="stable").astype(np.int32)
        places = np.empty_like(order)
        channels = np.broadcast_to(np.arange(len(q), dtype=np.int32), order.shape)
        np.put_along_axis(places, order, channels, axis=1)
        counts = [np.bincount(column, minlength=len(LEVELS)).tolist() for column in levels.T]

        def there(x: NDArray[Any]) -> Tensor:
            return torch.from_numpy(x).to(self._device)

        return Layout(
            maps=maps,
            sizes=tuple(size for units in maps for size in units.sizes),
            order=there(order),
            places=there(places),
            steps=there(steps),
            deltas=there(deltas),
            counts=tuple(map(tuple, counts)),
        )

    def _units(self, maps: Maps, of: Callable[..., Whole]) -> Whole:
        """(C, U) of what the constants say of each map's units and channels."""
        found = [of(self._layer, self._parts, units) for units in maps]  # (2, P, H, U, D)
        together = np.moveaxis(np.concatenate(found, axis=3), 3, 4)
        return np.ascontiguousarray(together).reshape(-1, together.shape[4])
