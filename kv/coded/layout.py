"""Which bits each channel of each unit has, and so where its codes lie. Knows constants and
thresholds; nothing of values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scalekv.kv.coded.constants import Constants
from scalekv.kv.coded.kept import KeptTables
from scalekv.kv.coded.levels import LEVELS, OCTAVE, OFFSETS, STEPS
from scalekv.kv.coded.places import ByCoefficient, ByRow, Places, is_small
from scalekv.kv.coded.units import Maps

Whole = NDArray[np.int32]


@dataclass(frozen=True)
class CodedBlock:
    """Some of a map's coefficients (kinds, H, D', P', n, B): all those behind the last unit, and
    before the first channel, that have bits, are left out.

    Attributes:
        number: of the map among those of a layout.
        kinds: keys, values, or both.
        parts: middle, side, or both.
        units: of the map.
        least: the first channel of the basis.
    """

    number: int
    kinds: slice
    parts: slice
    units: slice
    least: int

    def holds(self, other: CodedBlock) -> bool:
        """Whether all of another's coefficients are in it."""
        pairs = ((self.kinds, other.kinds), (self.parts, other.parts), (self.units, other.units))
        inside = all(a.start <= b.start and b.stop <= a.stop for a, b in pairs)
        return inside and self.number == other.number and self.least <= other.least


@dataclass(frozen=True, eq=False)
class Layout:
    """Quantisers of some maps in a row, and where each coefficient's code lies.

    Attributes:
        blocks: of every map, all that has bits.
        counts: [level][unit] channels.
        weights: of each map (2, H, D, P, U) float32: 1 / variance; 0 for no bits. Divided by how
            many of the map's coefficients of these kinds, head and part have any.
        places: where the codes lie.
        small: whether a map is one block, and all maps are worked on together.
    """

    maps: Maps
    blocks: tuple[CodedBlock, ...]
    counts: NDArray[np.int64]
    weights: tuple[Tensor, ...]
    places: Places
    small: bool

    @property
    def kinds(self) -> tuple[slice, ...]:
        """Keys and values in one go, or one after the other."""
        return (slice(0, 2),) if self.small else (_one(0), _one(1))

    @property
    def parts(self) -> tuple[slice, ...]:
        """Likewise of middle and side."""
        count = self.weights[0].shape[3]
        return (slice(0, count),) if self.small else tuple(map(_one, range(count)))

    @property
    def together(self) -> tuple[range, ...]:
        """Numbers of maps that are decoded in one go."""
        numbers = range(len(self.maps))
        return (numbers,) if self.small else tuple(range(n, n + 1) for n in numbers)

    def of_map(self, number: int) -> list[int]:
        """Numbers of a map's blocks."""
        return [n for (of, _, _), found in self._chains.items() if of == number for n in found]

    def of_chain(self, number: int, kinds: slice, parts: slice) -> list[int]:
        """Numbers of the blocks of a map, kinds and parts: its first units, one after the other."""
        return self._chains.get((number, kinds.start, parts.start), [])

    @cached_property
    def _chains(self) -> dict[tuple[int, int, int], list[int]]:
        found: dict[tuple[int, int, int], list[int]] = {}
        for n, block in enumerate(self.blocks):
            found.setdefault((block.number, block.kinds.start, block.parts.start), []).append(n)
        return found

    def taken_from(self, old: Layout, values: Sequence[Tensor]) -> list[Tensor]:
        """Of an older layout's values those that have bits here; fewer maps, more bits."""
        found = []
        for block in self.blocks:
            if block.number == len(old.maps):
                break
            units = old.maps[block.number]
            place = next(n for n, other in enumerate(old.blocks) if other.holds(block))
            other, value = old.blocks[place], values[place]
            columns, first = units.columns(block.units), units.ends[other.units.start]
            found.append(
                value[
                    _within(block.kinds, other.kinds),
                    :,
                    block.least - other.least :,
                    _within(block.parts, other.parts),
                    columns.start - first : columns.stop - first,
                ]
            )
        return found

    @property
    def nbytes(self) -> int:
        """Of its tensors."""
        return self.places.nbytes + sum(x.nbytes for x in self.weights)


class Layouts(KeptTables[Layout]):
    """Of one layer."""

    def __init__(
        self, constants: Constants, layer: int, parts: slice, device: torch.device
    ) -> None:
        super().__init__(constants.layers)
        self._constants, self._layer, self._parts, self._device = constants, layer, parts, device

    @torch.inference_mode(False)  # kept, and used outside of it too
    def _made(self, maps: Maps, threshold: int) -> Layout:
        levels, steps, weights = [], [], []
        for units in maps:
            q, variances = (
                self._by_channel(of(self._layer, self._parts, units))
                for of in (self._constants.importances, self._constants.variances)
            )
            level = np.zeros(q.shape, dtype=np.uint8)
            for offset in OFFSETS:
                level += q >= threshold + offset
            sigma = np.exp2(variances.astype(np.float32) / (2 * OCTAVE))
            levels.append(level)
            steps.append(_DELTAS[level] * sigma)
            with_bits = (level > 0) * np.array(units.sizes, dtype=np.float32)
            number = with_bits.sum((2, 4), keepdims=True).clip(1)
            weights.append(torch.from_numpy((level > 0) / (sigma**2 * number)).to(self._device))
        tokens = sum(units.tokens for units in maps)
        small = is_small(levels[0][..., 0].size, tokens)
        blocks = tuple(_blocks(maps, levels, small))
        counts = [
            np.bincount(column.ravel(), minlength=len(LEVELS))
            for level in levels
            for column in np.moveaxis(level, -1, 0)
        ]
        kind = ByCoefficient if small else ByRow
        return Layout(
            maps=maps,
            blocks=blocks,
            counts=np.array(counts).T,
            weights=tuple(weights),
            places=kind(
                [_inside(levels, block) for block in blocks],
                [_inside(steps, block) for block in blocks],
                [maps[block.number].sizes[block.units] for block in blocks],
                self._device,
            ),
            small=small,
        )

    @staticmethod
    def _by_channel(x: Whole) -> Whole:
        """(2, P, H, U, D) as (2, H, D, P, U)."""
        return np.ascontiguousarray(x.transpose(0, 2, 4, 1, 3))


_DELTAS = np.array([STEPS[bits] for bits in LEVELS], dtype=np.float32)


def _inside(of_maps: list[NDArray[Any]], block: CodedBlock) -> NDArray[Any]:
    x = of_maps[block.number]
    return x[block.kinds, :, block.least :, block.parts, block.units]


def _blocks(maps: Maps, levels: list[NDArray[np.uint8]], small: bool) -> Iterator[CodedBlock]:
    """Of small maps one block for their mean, which has most bits, and one for the rest; of large
    ones one for each unit of keys or values, middle or side."""
    for number, (units, level) in enumerate(zip(maps, levels, strict=True)):
        kinds, _, _, parts, count = level.shape
        if small:
            of = (slice(0, kinds), slice(0, parts))
            ends = [1, count] if units.transformed and count > 1 else [count]
            yield from _chain(number, *of, level > 0, ends)
            continue
        for kind in range(kinds):
            for part in range(parts):
                of = (_one(kind), _one(part))
                known = level[of[0], :, :, of[1]] > 0
                yield from _chain(number, *of, known, range(1, count + 1))


def _chain(
    number: int, kinds: slice, parts: slice, known: NDArray[np.bool_], ends: Sequence[int]
) -> Iterator[CodedBlock]:
    """Blocks of units up to each of `ends`, as far as any has bits: `known` (kinds, H, D, P, U)."""
    by_unit = np.asarray(known.any((0, 1, 3)))  # (D, U)
    first, last = 0, int(np.flatnonzero(by_unit.any(0)).max(initial=-1))
    for end in ends:
        if first > last:
            return
        end = min(end, last + 1)
        channels = np.flatnonzero(by_unit[:, first:end].any(1))
        yield CodedBlock(
            number, kinds, parts, slice(first, end), int(channels.min(initial=len(by_unit)))
        )
        first = end


def _within(inner: slice, outer: slice) -> slice:
    return slice(inner.start - outer.start, inner.stop - outer.start)


def _one(place: int) -> slice:
    return slice(place, place + 1)
