"""How many bits every coefficient gets at every scale, so that the bytes held are a budget's at
every moment. Pure arithmetic; knows no tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from scalekv.kv.coded.constants import ALONE, GUIDED, Constants
from scalekv.kv.coded.levels import LEVELS, OCTAVE, OFFSETS, code_bytes
from scalekv.kv.coded.units import MapUnits, groups_of, units_of
from scalekv.kv.errors import BudgetTooSmall
from scalekv.kv.schedule import Schedule
from scalekv.kv.sizes import size_text

GAIN_BYTES = 2
"""Of a map's gain, float16, one per picture, head and part, of keys and of values."""

Bytes = NDArray[np.int64]


@dataclass(frozen=True)
class Allocation:
    """When a picture's history is coded, and with how many bits.

    Attributes:
        schedule: of the pictures.
        guided: whether the sequences are pairs of guidance halves.
        pictures: that go through the model together.
        token_bytes: of one token's k and v as attention computes them, in one layer, all
            sequences together.
        budget_bytes: held at most, all layers and pictures together, at any moment.
        first: the first scale for which the history is coded, from 0; the number of scales where
            it always fits as it is.
        thresholds: per scale, what an importance is measured against (see `levels.OFFSETS`);
            never falling; 0 and without meaning before `first`.
        layer_bytes: [scale][layer] held while the scale is generated, as it is or coded.
    """

    schedule: Schedule
    guided: bool
    pictures: int
    token_bytes: int
    budget_bytes: int
    first: int
    thresholds: tuple[int, ...]
    layer_bytes: tuple[tuple[int, ...], ...]

    @property
    def parts(self) -> slice:
        """Which of the constants' parts are coded."""
        return GUIDED if self.guided else ALONE

    @property
    def raw_tokens(self) -> int:
        """The most tokens that are ever held as they are."""
        return self.schedule.before(self.first - 1) if self.first else 0

    @property
    def peak_bytes(self) -> int:
        """The most held at any moment, while layers are rewritten one after the other too."""
        rows = self.layer_bytes
        return max(
            (_fullest(rows[scale - 1], rows[scale]) for scale in range(1, len(rows))), default=0
        )


def allocate(
    constants: Constants,
    schedule: Schedule,
    *,
    guided: bool,
    pictures: int,
    token_bytes: int,
    budget_bytes: int,
) -> Allocation:
    """The bits of every scale: the same threshold for all layers and heads, as low as the budget
    allows.

    Args:
        token_bytes: of one token's k and v as attention computes them, in one layer, all
            sequences of all `pictures` together.
        budget_bytes: see `Allocation`.

    Raises:
        BudgetTooSmall: not even a history of means fits.
    """
    scales, layers = len(schedule), constants.layers
    fits = [schedule.before(s) * token_bytes * layers <= budget_bytes for s in range(scales)]
    first = fits.index(False) if False in fits else scales
    # Room is made once for what is ever held as it is, and written in place.
    raw = schedule.before(first - 1) * token_bytes if first else 0
    rows = [(0,) * layers, *[(raw,) * layers] * (scales - 1)]
    thresholds = [0] * scales
    tables = histogram(constants, schedule, guided) if first < scales else None
    following: Sequence[int] | None = None
    for scale in reversed(range(first, scales)):
        assert tables is not None
        threshold = tables.lowest(scale, pictures, budget_bytes, after=following)
        thresholds[scale] = threshold
        following = tables.bytes_of(scale, threshold, pictures)
    for scale in range(first, scales):
        assert tables is not None
        threshold = max(thresholds[scale - 1] if scale > first else -(2**31), thresholds[scale])
        if scale == first:
            least = tables.lowest(scale, pictures, budget_bytes, before=rows[scale - 1])
            threshold = max(threshold, least)
        thresholds[scale] = threshold
        rows[scale] = tables.bytes_of(scale, threshold, pictures)
    return Allocation(
        schedule=schedule,
        guided=guided,
        pictures=pictures,
        token_bytes=token_bytes,
        budget_bytes=budget_bytes,
        first=first,
        thresholds=tuple(thresholds),
        layer_bytes=tuple(rows),
    )


def without_halves(constants: Constants, allocation: Allocation) -> Allocation:
    """The bits once the unconditional halves of a picture are gone: half the sequences in half the
    bytes."""
    return allocate(
        constants,
        allocation.schedule,
        guided=False,
        pictures=allocation.pictures,
        token_bytes=allocation.token_bytes // 2,
        budget_bytes=allocation.budget_bytes // 2,
    )


@dataclass(frozen=True, eq=False)
class Histogram:
    """How many coefficients of each map and layer are how important, of one picture.

    Attributes:
        least: the importance of the first bin.
        above: (K, N, bins + 1) coefficients of importance `least` + bin or more.
        gains: gains of one map in one layer.
        groups: the first map of each group that is packed together.
    """

    least: int
    above: Bytes
    gains: int
    groups: tuple[int, ...]

    def counts(self, scale: int, threshold: int) -> Bytes:
        """(levels, maps, N) coefficients of each level above 0, while `scale` is generated."""
        bins = np.clip(np.array(OFFSETS) + threshold - self.least, 0, self.above.shape[2] - 1)
        reached = np.moveaxis(self.above[:scale, :, bins], 2, 0)
        exact: Bytes = reached - np.concatenate((reached[1:], np.zeros_like(reached[:1])))
        return exact

    def bytes_of(self, scale: int, threshold: int, pictures: int) -> tuple[int, ...]:
        """Bytes that each layer holds while `scale` is generated."""
        total = np.full(self.above.shape[1], scale * self.gains * GAIN_BYTES * pictures)
        first = [number for number in self.groups if number < scale]
        for bits, counts in zip(LEVELS[1:], self.counts(scale, threshold), strict=True):
            together = np.add.reduceat(counts, first, axis=0)
            total += code_bytes(together * pictures, bits).sum(0)
        return tuple(total.tolist())

    def lowest(
        self,
        scale: int,
        pictures: int,
        most: int,
        *,
        before: Sequence[int] | None = None,
        after: Sequence[int] | None = None,
    ) -> int:
        """The lowest threshold with which all layers hold at most `most` bytes while `scale` is
        generated, and while they are rewritten to it from bytes `before`, or from it to `after`.

        Raises:
            BudgetTooSmall: there is none.
        """

        def fits(threshold: int) -> bool:
            row = self.bytes_of(scale, threshold, pictures)
            return (
                sum(row) <= most
                and (before is None or _fullest(before, row) <= most)
                and (after is None or _fullest(row, after) <= most)
            )

        low = self.least - max(OFFSETS) - 1  # everything has the most bits
        high = self.least + int(self.above.shape[2])  # nothing has any
        if not fits(high):
            least: int = sum(self.bytes_of(scale, high, pictures))
            raise BudgetTooSmall(
                f"a budget of {size_text(most)} has no room for a coded history",
                where="budget",
                rule=f"the gains alone of the maps take {least} bytes here",
                fix=f"ask for more, such as {size_text(max(8 * least, 2 * most))}",
            )
        if fits(low):
            return low
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if fits(middle) else (middle, high)
        return high


@lru_cache(maxsize=4)
def histogram(constants: Constants, schedule: Schedule, guided: bool) -> Histogram:
    """Counts the coefficients of a schedule's maps by importance."""
    parts = GUIDED if guided else ALONE
    maps = units_of(schedule)
    least, bins = _range(constants, maps, parts)
    above = np.zeros((len(maps), constants.layers, bins + 1), dtype=np.int64)
    for units in maps:
        sizes = np.array(units.sizes, dtype=np.float64)[:, None]
        for layer in range(constants.layers):
            q = constants.importances(layer, parts, units)
            weights = np.broadcast_to(sizes, q.shape)
            counts = np.bincount((q - least).ravel(), weights.ravel(), minlength=bins)
            above[units.number, layer, :bins] = counts
    above = above[:, :, ::-1].cumsum(2)[:, :, ::-1]
    groups = tuple(group[0].number for group in groups_of(schedule, constants.channels(parts)))
    return Histogram(least, above, 2 * (parts.stop - parts.start) * constants.heads, groups)


def _range(constants: Constants, maps: Sequence[MapUnits], parts: slice) -> tuple[int, int]:
    """The least importance there is or less, and how many whole numbers there are from it on."""
    arrays = (
        constants.variance_unit[:, :, parts],
        constants.variance_channel[:, :, parts],
        constants.weight_map,
        constants.weight_channel[:, :, parts],
    )
    least = sum(int(array.min()) for array in arrays)
    most = sum(int(array.max()) for array in arrays)
    growth = max((units.tokens for units in maps if units.transformed), default=1)
    return least, int(most - least + OCTAVE * growth.bit_length() + 1)


def _fullest(before: Sequence[int], after: Sequence[int]) -> int:
    """The most bytes of all layers while they go from `before` to `after`, the first first."""
    held = most = sum(before)
    for old, new in zip(before, after, strict=True):
        held += new - old
        most = max(most, held)
    return most
