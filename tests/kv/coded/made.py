"""Constants and signals made up for tests of the coded cache."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from scalekv.kv.coded.constants import Constants
from scalekv.kv.coded.levels import OCTAVE
from scalekv.kv.coded.signals import restored, write_back
from scalekv.kv.coded.units import BANDS, MapUnits
from scalekv.kv.schedule import Schedule


def made_constants(
    layers: int = 2,
    heads: int = 2,
    dim: int = 8,
    maps: int = 5,
    groups: int = 1,
    seed: int = 0,
    apart: bool = False,
) -> Constants:
    """Of no model; variances fall from band to band and channel to channel. `apart`: weights of
    units and channels, not of maps alone."""
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.standard_normal((layers, 2, heads, dim, dim)))[0]
    falling = -OCTAVE * np.arange(BANDS)
    unit = rng.integers(-OCTAVE, OCTAVE, (layers, 2, 3, heads, maps, BANDS)) + falling
    channel = rng.integers(-4 * OCTAVE, OCTAVE, (layers, 2, 3, heads, groups, dim))
    weights = (layers, 2, 3, heads, maps, BANDS) if apart else (layers, 2, 1, heads, maps, 1)
    weight = rng.integers(-OCTAVE, OCTAVE, weights)
    besides = rng.integers(-OCTAVE, OCTAVE, (layers, 2, 3, heads, dim)) * apart
    return Constants(
        mean=rng.standard_normal((layers, 2, 2, heads, maps, dim)).astype(np.float16),
        basis=basis.astype(np.float16),
        variance_unit=unit.astype(np.int16),
        variance_channel=channel.astype(np.int16),
        weight_map=weight.astype(np.int16),
        weight_channel=besides.astype(np.int16),
        about={"model": "none"},
    )


def smooth(
    schedule: Schedule, tokens: int, sequences: int, heads: int, dim: int, seed: int = 0
) -> Tensor:
    """(sequences, heads, tokens, dim) of the first maps of a schedule, smooth over each map."""
    generator = torch.Generator().manual_seed(tokens + sequences + 1000 * seed)
    maps = []
    for height, width in schedule.scales:
        coarse = torch.randn((sequences * heads, dim, 2, 2), generator=generator)
        fine = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
        maps.append(fine.view(sequences, heads, dim, -1).transpose(2, 3))
    return torch.cat(maps, dim=2)[:, :, :tokens].contiguous()


def turns_of(tokens: int, dim: int) -> Tensor:
    """(tokens, dim / 2) complex of length one."""
    angles = torch.arange(tokens)[:, None] * torch.linspace(1, 0.01, dim // 2)
    return torch.polar(torch.ones_like(angles), angles)


def drawn(
    constants: Constants, layer: int, parts: slice, units: MapUnits, pictures: int
) -> tuple[Tensor, Tensor]:
    """k and v (P * pictures, H, n, D) of a map, normal with the means and variances that the
    constants say, turned by `turns_of`."""
    generator = torch.Generator().manual_seed(units.number)
    logs = constants.variances(layer, parts, units).transpose(0, 2, 1, 3, 4)  # (2, H, P, U, D)
    spread = np.repeat(np.exp2(logs / (2 * OCTAVE)), units.sizes, axis=3)
    sigma = torch.from_numpy(spread).float().unsqueeze(4)
    y = sigma * torch.randn((*sigma.shape[:4], pictures, sigma.shape[5]), generator=generator)
    basis = torch.from_numpy(constants.basis[layer]).float()
    signals = restored((y.flatten(2, 4) @ basis.mT).view(y.shape), units)
    means = torch.from_numpy(constants.means(layer, parts, units.number)).transpose(1, 2)
    signals += means[:, :, :, None, None]
    shape = (y.shape[2] * pictures, y.shape[1], units.tokens, y.shape[5])
    k, v = torch.empty(shape), torch.empty(shape)
    write_back(signals[0].unbind(1), turns_of(units.tokens, y.shape[5]), k)
    write_back(signals[1].unbind(1), None, v)
    return k, v
