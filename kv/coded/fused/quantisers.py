"""What kernels find codes by, kept on a device: small tables of units, from which they make those
of every channel. Knows constants and thresholds; nothing of values."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scalekv.kv.coded.constants import Constants
from scalekv.kv.coded.kept import KeptTables
from scalekv.kv.coded.levels import LEVELS, OCTAVE, OFFSETS, STEPS, code_bytes
from scalekv.kv.coded.units import Maps
from scalekv.kv.kernels.coded_tables import coded_tables


@dataclass(frozen=True, eq=False)
class Quantisers:
    """Of some maps in a row of one layer, under one threshold.

    Attributes:
        counts: (levels, U) channels of each level above 0.
        codes: of each level above 0, of one picture.
        units, kinds: see `scalekv.kv.kernels.coded_tables`.
        with_bits: (maps, 2, H, P) float32: coefficients with bits, at least 1.
        columns: (3, n) int32: of each coefficient the unit, the map, the place in the unit.
    """

    maps: Maps
    counts: NDArray[np.int64]
    codes: tuple[int, ...]
    units: Tensor
    kinds: Tensor
    with_bits: Tensor
    columns: Tensor
    _sections: dict[int, Tensor] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Of its tensors."""
        tensors = (self.units, self.kinds, self.with_bits, self.columns)
        return sum(x.nbytes for x in tensors)

    def sections(self, pictures: int) -> Tensor:
        """(levels + 1, 4) int64: where a level's bytes begin, how many there are, at least 1, where
        its codes begin, and how many there are."""
        known = self._sections
        if pictures not in known:
            counts = [count * pictures for count in self.codes]
            sizes = self._sizes(pictures)
            rows = [(0, 1, 0, 0)]
            firsts = zip(accumulate(sizes, initial=0), accumulate(counts, initial=0), strict=True)
            for (first, begin), size, count in zip(firsts, sizes, counts, strict=False):
                rows.append((first, max(size, 1), begin, count))
            with torch.inference_mode(False):
                known[pictures] = torch.tensor(rows).to(self.units.device)
        return known[pictures]

    def nbytes_packed(self, pictures: int) -> int:
        """Of the codes of so many pictures."""
        return sum(self._sizes(pictures))

    def _sizes(self, pictures: int) -> list[int]:
        return [
            code_bytes(count * pictures, bits)
            for count, bits in zip(self.codes, LEVELS[1:], strict=True)
        ]


class LayerQuantisers(KeptTables[Quantisers]):
    """Of one layer."""

    def __init__(
        self, constants: Constants, layer: int, parts: slice, device: torch.device
    ) -> None:
        super().__init__(constants.layers)
        self._constants, self._layer, self._parts, self._device = constants, layer, parts, device

    def tables(self, quantisers: Quantisers) -> tuple[Tensor, Tensor]:
        """Starts and steps of every channel, made anew: they are large."""
        return coded_tables(
            quantisers.units, quantisers.kinds, self._channels, self._weights, self.levels, OCTAVE
        )

    @cached_property
    @torch.inference_mode(False)  # kept, and used outside of it too
    def levels(self) -> Tensor:
        """(2, 1 + levels) float32: see `scalekv.kv.kernels.coded_tables`."""
        rows = [[0.0, *OFFSETS], [STEPS[bits] for bits in LEVELS]]
        return torch.tensor(rows, dtype=torch.float32).to(self._device)

    @cached_property
    @torch.inference_mode(False)
    def _channels(self) -> Tensor:
        """(2, H, P, G, D) int16."""
        of_layer = self._constants.variance_channel[self._layer, :, self._parts]
        return self._there(of_layer.transpose(0, 2, 1, 3, 4))

    @cached_property
    @torch.inference_mode(False)
    def _weights(self) -> Tensor:
        """(2, H, P, D) int16."""
        of_layer = self._constants.weight_channel[self._layer, :, self._parts]
        return self._there(of_layer.transpose(0, 2, 1, 3))

    @torch.inference_mode(False)
    def _made(self, maps: Maps, threshold: int) -> Quantisers:
        constants, of_layer = self._constants, (self._layer, self._parts)
        channel = constants.variance_channel[self._layer, :, self._parts]  # (2, P, H, G, D)
        weight = constants.weight_channel[self._layer, :, self._parts, :, None]
        variances, importances, counts, kinds, with_bits = [], [], [], [], []
        for units in maps:
            groups, sizes = constants.channel_groups(units), np.array(units.sizes)
            variance = constants.variances(*of_layer, units)  # (2, P, H, U, D)
            q = constants.importances(*of_layer, units) - threshold
            first = channel[:, :, :, groups, 0]  # what is left of a channel's is its unit's
            variances.append(variance[..., 0] - first)
            importances.append(q[..., 0] - first - weight[..., 0])
            reached = np.stack([(q >= offset).sum(-1) for offset in OFFSETS])
            counts.append(reached - np.concatenate((reached[1:], np.zeros_like(reached[:1]))))
            kinds.append(np.stack((groups, sizes)))
            with_bits.append((reached[0] * sizes).sum(-1).clip(1))
        channels = np.concatenate(counts, -1).swapaxes(2, 3)  # (levels, 2, H, P, U)
        kind = np.concatenate(kinds, -1)
        codes = channels * kind[1]
        ends = codes.reshape(len(codes), -1).cumsum(1).reshape(codes.shape)
        logs = [np.concatenate(x, -1).swapaxes(1, 2)[None] for x in (variances, importances)]
        units_of_maps = [size for units in maps for size in units.sizes]
        columns = (
            np.repeat(np.arange(len(units_of_maps)), units_of_maps),
            np.repeat(np.arange(len(maps)), [units.tokens for units in maps]),
            np.concatenate([np.arange(size) for size in units_of_maps]),
        )
        return Quantisers(
            maps=maps,
            counts=channels.sum((1, 2, 3)),
            codes=tuple(codes.sum((1, 2, 3, 4)).tolist()),
            units=self._there(np.concatenate((*logs, ends - codes)).astype(np.int32)),
            kinds=self._there(kind.astype(np.int32)),
            with_bits=self._there(np.stack(with_bits).swapaxes(2, 3).astype(np.float32)),
            columns=self._there(np.stack(columns).astype(np.int32)),
        )

    def _there(self, x: NDArray[np.generic]) -> Tensor:
        # waits for the device, so that it cannot become a part of what is recorded there
        return torch.from_numpy(np.ascontiguousarray(x)).to(self._device)
