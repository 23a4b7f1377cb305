"""From what was measured to the constants of a coded cache: steadied, and as sums of a unit's and a
channel's logarithm. Knows arrays; nothing of models or files."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from scalekv.kv.coded.constants import Constants
from scalekv.kv.coded.levels import OCTAVE
from scalekv.kv.coded.statistics import Measured
from scalekv.kv.coded.units import BANDS, COARSE

PRIOR = 128
"""So many coefficients of its map's units count as much as a unit's own."""

LEAST_VARIANCE = 1e-12
LEAST_WEIGHT = 1e-30

STEADY = 0.05
"""So much of a channel's importance by gradients is its unit's mean."""

Numbers = NDArray[np.float64]


def constants_from(found: Measured, groups: int, about: dict[str, Any]) -> Constants:
    """Constants with variances of channels in so many groups; see `Constants.variance_channel`."""
    variance = found.variance.numpy()
    if variance.shape[2] == 1:  # no guidance: middle and conditional are the same, no side
        variance = np.concatenate((variance, np.full_like(variance, LEAST_VARIANCE), variance), 2)
    means = found.means.numpy()
    if means.shape[2] == 1:
        means = np.concatenate((means, np.zeros_like(means)), 2)
    sizes = found.sizes.numpy()
    logs = np.log2(np.maximum(_steadied(variance, sizes, found.pictures), LEAST_VARIANCE))
    unit, channel = _parted(logs, sizes, groups)
    weight, weight_channel = _weights(found)
    return Constants(
        mean=means.astype(np.float16),
        basis=found.basis.numpy().astype(np.float16),
        variance_unit=_whole(unit),
        variance_channel=_whole(channel),
        weight_map=_whole(weight),
        weight_channel=_whole(weight_channel),
        about=about,
    )


def _weights(found: Measured) -> tuple[Numbers, Numbers]:
    """Logarithms of how much errors matter, of units and of channels besides: by gradients where
    there are any, by attention otherwise."""
    if found.reach is None:
        weight = np.log2(np.maximum(found.weight.numpy(), LEAST_WEIGHT))
        layers, _, heads, _, dim = found.basis.shape
        return weight[:, :, None, ..., None], np.zeros((layers, 2, 3, heads, dim))
    sizes = found.sizes.numpy()
    reach = _steadied(found.reach.numpy(), sizes, found.pictures)
    reach = (1 - STEADY) * reach + STEADY * reach.mean(-1, keepdims=True)
    unit, channel = _parted(np.log2(np.maximum(reach, LEAST_WEIGHT)), sizes, 1)
    if unit.shape[2] == 1:
        unit, channel = (x.repeat(3, axis=2) for x in (unit, channel))
    return unit, channel[..., 0, :]


def _steadied(variance: Numbers, sizes: Numbers, pictures: int) -> Numbers:
    """Each unit's mean squares (…, K, BANDS, D) drawn towards the shape of its map's, the more so
    the fewer coefficients were seen; of the maps that are not transformed, all together."""
    heavy = variance * sizes[:, :, None]
    pool = heavy.sum(-2, keepdims=True).repeat(BANDS, axis=-2)
    coarse = heavy[..., :COARSE, :, :].sum((-3, -2), keepdims=True)
    pool[..., :COARSE, :, :] = coarse
    share = (pictures * sizes / (pictures * sizes + PRIOR))[..., None]
    level = variance.sum(-1, keepdims=True) / np.maximum(pool.sum(-1, keepdims=True), 1e-30)
    steadied: Numbers = share * variance + (1 - share) * level * pool
    return steadied


def _parted(logs: Numbers, sizes: Numbers, groups: int) -> tuple[Numbers, Numbers]:
    """Logarithms (…, K, BANDS, D) as sums of a unit's (…, K, BANDS) and a channel's (…, G, D);
    units that no map had are given those of the nearest band, or map, that has them."""
    *lead, maps, bands, dim = logs.shape
    group = np.zeros((maps, bands), dtype=np.int64)
    if groups == 1 + BANDS:
        group[COARSE:] = 1 + np.arange(bands)
    elif groups > 1:
        group = np.arange(maps * bands).reshape(maps, bands)
    unit = logs.mean(-1)
    shape = logs - unit[..., None]
    channel = np.zeros((*lead, groups, dim))
    for number in range(groups):
        weights = np.where(group == number, sizes, 0)
        if weights.any():
            channel[..., number, :] = (shape * weights[..., None]).sum((-3, -2)) / weights.sum()
    for number in range(maps):
        seen = np.flatnonzero(sizes[number])
        for band in range(bands):
            if not sizes[number, band]:
                nearest = seen[np.abs(seen - band).argmin()]
                unit[..., number, band] = unit[..., number, nearest]
                if groups == maps * bands:
                    channel[..., number * bands + band, :] = channel[
                        ..., number * bands + nearest, :
                    ]
    return unit, channel


def _whole(logs: Numbers) -> NDArray[np.int16]:
    return np.round(logs * OCTAVE).clip(-32000, 32000).astype(np.int16)
