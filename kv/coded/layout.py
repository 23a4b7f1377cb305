"""Which bits each channel of each unit has, and so where its codes lie. Knows constants and
thresholds; nothing of values."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scalekv.kv.coded.constants import Constants
from scalekv.kv.coded.levels import KEPT, LEVELS, OCTAVE, OFFSETS, STEPS
from scalekv.kv.coded.places import Places, places_of
from scalekv.kv.coded.units import MapUnits
from scalekv.kv.to_device import whole_numbers

Maps = tuple[MapUnits, ...]
Whole = NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Layout:
    """Quantisers of some maps in a row, and where each coefficient's code lies. Rows are the
    C = 2 P H D channels: keys before values, middle before side, heads, channels of the basis.

    Attributes:
        sizes: coefficients of each of the U units of all maps.
        codes: of each level above 0, of one picture.
        counts: [unit][level] channels.
        steps: (C, U) float32 of the quantiser, for a gain of 1; 0 for no bits.
        deltas: (C, U) float32: the same in standard deviations.
        places: where the codes lie.
    """

    maps: Maps
    sizes: tuple[int, ...]
    codes: tuple[int, ...]
    counts: tuple[tuple[int, ...], ...]
    steps: Tensor
    deltas: Tensor
    places: Places

    @property
    def nbytes(self) -> int:
        """Of its tensors, once all are made."""
        return self.places.nbytes + 3 * self.steps.nbytes

    def columns(self, units: MapUnits) -> slice:
        """Which of the U units are those of one of the maps."""
        first = 0
        for one in self.maps:
            if one is units:
                break
            first += len(one.sizes)
        return slice(first, first + len(units.sizes))

    @cached_property
    def units_of_maps(self) -> Tensor:
        """(maps,) int64: how many of the U units are each one's."""
        counts = tuple(len(units.sizes) for units in self.maps)
        return whole_numbers(counts, self.steps.device)

    @cached_property
    def inverse(self) -> Tensor:
        """(C, U) float32: 1 / steps, and 0 for no bits."""
        return torch.where(self.steps > 0, 1 / self.steps, 0)


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
        counts = [np.bincount(column, minlength=len(LEVELS)).tolist() for column in levels.T]
        sizes = [size for units in maps for size in units.sizes]

        def there(x: NDArray[Any]) -> Tensor:
            return torch.from_numpy(x).to(self._device)

        return Layout(
            maps=maps,
            sizes=tuple(sizes),
            codes=tuple((np.array(sizes) @ np.array(counts))[1:].tolist()),
            counts=tuple(map(tuple, counts)),
            steps=there(steps),
            deltas=there(deltas),
            places=places_of(levels, sizes, self._device),
        )

    def _units(self, maps: Maps, of: Callable[..., Whole]) -> Whole:
        """(C, U) of what the constants say of each map's units and channels."""
        found = [of(self._layer, self._parts, units) for units in maps]  # (2, P, H, U, D)
        together = np.moveaxis(np.concatenate(found, axis=3), 3, 4)
        return np.ascontiguousarray(together).reshape(-1, together.shape[4])
