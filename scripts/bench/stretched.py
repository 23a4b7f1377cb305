"""The built-in model's constants of the coded cache at another model's sizes, for timing alone.

How many bits go where is as it is there; bases are orthonormal and otherwise by chance. Knows
constants; nothing of weights.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scalekv.infinity_patch.asked.policies import calibration_of
from scalekv.kv.coded.constants import Constants

SOURCE = "emoji"


@cache
def stretched(layers: int, heads: int, dim: int) -> Constants:
    """Constants for so many layers, heads and channels a head; later maps are like the last one."""
    known: Constants = calibration_of("coded", SOURCE)

    def spread(axis: int, array: NDArray[Any], size: int) -> NDArray[Any]:
        found: NDArray[Any] = array.take(np.arange(size) * array.shape[axis] // size, axis)
        return found

    def sized(array: NDArray[Any], head_axis: int, channels: bool) -> NDArray[Any]:
        array = spread(head_axis, spread(0, array, layers), heads)
        return spread(array.ndim - 1, array, dim) if channels else array

    chance = np.random.default_rng(0).standard_normal((2, heads, dim, dim))
    basis = np.broadcast_to(np.linalg.qr(chance)[0], (layers, 2, heads, dim, dim))
    return Constants(
        mean=sized(known.mean, 3, channels=True),
        basis=basis.astype(np.float16),
        variance_unit=sized(known.variance_unit, 3, channels=False),
        variance_channel=sized(known.variance_channel, 3, channels=True),
        weight_map=sized(known.weight_map, 3, channels=False),
        weight_channel=sized(known.weight_channel, 3, channels=True),
        about={"stretched from": SOURCE},
    )
