"""Into which parts a map's coefficients fall: bands of an orthonormal cosine transform. Pure
arithmetic; knows no tensors and no model."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise

import numpy as np

from scalekv.kv.coded.levels import SMALL
from scalekv.kv.schedule import Schedule

COARSE = 3
"""So many maps, the first, are not transformed: each is one unit of plain tokens."""

EDGES = (17, 34, 50, 70)
"""Where bands end, in percent of max(row / height, column / width) of a coefficient."""

BANDS = len(EDGES) + 2
"""The mean of the map alone (band 0), the bands up to each edge, and the rest."""


@dataclass(frozen=True)
class MapUnits:
    """The units of one map.

    Attributes:
        number: of the map, from 0.
        height, width: of the map.
        transformed: whether it goes through the cosine transform.
        order: coefficients, row by row in the transform, sorted by unit.
        bands: of each unit, ascending; one unit of band 0 where nothing is transformed.
        sizes: coefficients of each unit.
    """

    number: int
    height: int
    width: int
    transformed: bool
    order: tuple[int, ...]
    bands: tuple[int, ...]
    sizes: tuple[int, ...]

    @property
    def tokens(self) -> int:
        """Of the map, and so its coefficients."""
        return self.height * self.width

    @property
    def spans(self) -> tuple[slice, ...]:
        """Where each unit lies among the sorted coefficients."""
        return tuple(slice(*ends) for ends in pairwise(self.ends))

    @cached_property
    def ends(self) -> tuple[int, ...]:
        """Coefficients of the first so many units, from none to all."""
        return (0, *np.cumsum(self.sizes).tolist())

    @cached_property
    def boxes(self) -> tuple[tuple[int, int], ...]:
        """Rows and columns of the transform that the first so many units fill, likewise."""
        order = np.array(self.order)
        rows, columns = (1 + np.maximum.accumulate(x) for x in divmod(order, self.width))
        return ((0, 0), *((int(rows[end - 1]), int(columns[end - 1])) for end in self.ends[1:]))

    def columns(self, units: slice) -> slice:
        """Where some units in a row lie among the sorted coefficients."""
        return slice(self.ends[units.start], self.ends[units.stop])

    def __hash__(self) -> int:  # quicker than of every coefficient
        return hash((self.number, self.height, self.width))


Maps = tuple[MapUnits, ...]
"""Some in a row."""


@lru_cache(maxsize=256)
def map_units(number: int, height: int, width: int) -> MapUnits:
    """The units of the map of that number, from 0, and size."""
    tokens = height * width
    if number < COARSE:
        return MapUnits(number, height, width, False, tuple(range(tokens)), (0,), (tokens,))
    rows, columns = np.arange(height)[:, None], np.arange(width)[None]
    band = np.ones((height, width), dtype=np.int64)
    for edge in EDGES:  # whole numbers, so that a coefficient on an edge is on the same side always
        band += (100 * rows > edge * height) | (100 * columns > edge * width)
    band[0, 0] = 0
    order = np.argsort(band, axis=None, kind="stable")
    bands, sizes = np.unique(band, return_counts=True)
    return MapUnits(
        number,
        height,
        width,
        True,
        tuple(order.tolist()),
        tuple(bands.tolist()),
        tuple(sizes.tolist()),
    )


def units_of(schedule: Schedule) -> tuple[MapUnits, ...]:
    """Of every map that is ever held: all but the last."""
    return tuple(map_units(number, *size) for number, size in enumerate(schedule.scales[:-1]))


WHOLE = 100
"""Up to so many tokens a map's transform is one matrix."""


def groups_of(schedule: Schedule, channels: int) -> tuple[tuple[MapUnits, ...], ...]:
    """The maps that are ever held, in groups that are packed together: as many in a row as have at
    most `SMALL` coefficients in so many channels together, and larger ones alone."""
    groups: list[tuple[MapUnits, ...]] = []
    for units in units_of(schedule):
        together = (*groups[-1], units) if groups else (units,)
        if groups and channels * sum(one.tokens for one in together) <= SMALL:
            groups[-1] = together
        else:
            groups.append((units,))
    return tuple(groups)
