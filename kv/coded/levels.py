"""Bits for a coefficient: which numbers of bits there are, what each leaves of the variance, and
how many bytes codes take. Pure arithmetic."""

from __future__ import annotations

from itertools import pairwise
from math import log2
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Count = TypeVar("Count", int, NDArray[np.int64])

OCTAVE = 128
"""Logarithms of variances and importances are whole numbers: so many make a factor of 2."""

LEVELS = (0, 1, 2, 4, 8)
"""Bits that a coefficient may be given, ascending."""

DISTORTION = (1.0, 0.3634, 0.1188, 0.03744, 0.01154, 0.00349, 0.00104, 0.000304, 0.0000876)
"""Mean squared error, in variances of a normal coefficient, of the best uniform quantiser of so
many bits (Max 1960)."""

STEPS = (0.0, 1.596, 1.05, 0.64, 0.38, 0.23, 0.13, 0.072, 0.04)
"""The quantiser's step in standard deviations, for so many bits: from 2 bits on somewhat wider than
the best for a normal distribution, since tails are longer."""

PIECES = {0: (), 1: (1,), 2: (2,), 3: (2, 1), 4: (4,), 6: (4, 2), 8: (8,)}
"""How codes of so many bits are stored: in pieces whose sizes divide a byte, high bits first."""


def _offsets() -> tuple[int, ...]:
    """Per level above 0 how far an importance must lie above the threshold to be given it."""
    slopes = [(DISTORTION[low] - DISTORTION[high]) / (high - low) for low, high in pairwise(LEVELS)]
    return tuple(round(-OCTAVE * log2(slope)) for slope in slopes)


OFFSETS = _offsets()
"""A coefficient of importance q has the largest level whose offset is at most q - threshold: more
bits are worth their bytes where they take away at least the threshold's error per bit (reverse
water-filling)."""


def code_bytes(codes: Count, bits: int) -> Count:
    """Bytes of `codes` codes of `bits` bits each, packed; of one number or an array of them."""
    total = 0 * codes
    for piece in PIECES[bits]:
        total = total - (-codes * piece // 8)
    return total


KEPT = 48 << 20
"""Bytes of tables of where codes lie that are kept, of all layers; others are made whenever they
are needed."""

SMALL = 1 << 19
"""Maps of up to so many coefficients of a picture, all channels, are packed together, by a table
with a place for every one of them."""

PLACE_BYTES = 12
"""Of such a table for one coefficient with bits."""

ROW_BYTES = 16
"""Of the table of a larger map for one channel of one unit."""

WEIGHT_BYTES = 4
"""Of one number more for a channel of a unit."""

QUERIES = 256
"""At so many of a head's queries attention is looked at in one go, in a calibration."""

TOGETHER = 1 << 20
"""Coefficients that are worked on in one go: as many as caches of a processor have room for."""
