"""One layer's maps to packed codes and back by kernels, for CUDA devices. Knows constants and
thresholds; nothing of when a history is coded, or of caches."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from scalekv.kv.coded.codec import CodedMaps, OfLayer, Values
from scalekv.kv.coded.constants import Constants
from scalekv.kv.coded.fused.quantisers import LayerQuantisers
from scalekv.kv.coded.signals import waves_of
from scalekv.kv.coded.units import Maps, MapUnits
from scalekv.kv.kernels.coded_bytes import coded_again, coded_packed
from scalekv.kv.kernels.coded_codes import coded_codes
from scalekv.kv.kernels.coded_maps import coded_maps
from scalekv.kv.kernels.coded_values import coded_values
from scalekv.kv.kernels.coded_waves import coded_waves


class FusedCodec(OfLayer):
    """As `LayerCodec`. Values are all maps' codes, each a byte, level by level, and the quantisers'
    starts and steps."""

    def __init__(
        self, constants: Constants, layer: int, parts: slice, device: torch.device
    ) -> None:
        """`parts`: see `scalekv.kv.coded.constants.GUIDED`."""
        super().__init__(constants, layer, parts, device)
        self._quantisers = LayerQuantisers(constants, layer, parts, device)

    def bases(self) -> Tensor:
        """(2, H, D, D) float16: rows are the basis's channels."""
        return self._basis

    def decode(
        self,
        coded: CodedMaps,
        turns: Tensor | None,
        k_out: Tensor,
        v_out: Tensor,
        basis: Tensor,
    ) -> None:
        """See `LayerCodec`: two kernels, and two for each map."""
        known = self._quantisers.of(coded.maps, coded.threshold)
        values = coded_values(
            coded.codes.to(self._device, non_blocking=True),
            *self._quantisers.tables(known),
            self._stacked(coded.gains),
            known.columns,
            known.sections(coded.pictures),
            basis,
        )
        first = 0
        for units in coded.maps:
            rows = slice(first, first + units.tokens)
            coded_maps(
                values[:, :, :, rows],
                *self._waves(units),
                _angles(turns, rows),
                *_growth(units),
                k_out[:, :, rows],
                v_out[:, :, rows],
            )
            first += units.tokens

    def changes(self, coded: CodedMaps, threshold: int) -> bool:
        """See `LayerCodec`."""
        old = self._quantisers.of(coded.maps, coded.threshold)
        return not np.array_equal(old.counts, self._quantisers.of(coded.maps, threshold).counts)

    def begun(self, old: CodedMaps | None, maps: Maps, threshold: int, pictures: int) -> Values:
        """See `LayerCodec`: one kernel, and two more where something is held."""
        known = self._quantisers.of(maps, threshold)
        codes = torch.empty(sum(known.codes) * pictures, dtype=torch.uint8, device=self._device)
        tables = self._quantisers.tables(known)
        if old is not None:
            before = self._quantisers.of(old.maps, old.threshold)
            coded_again(
                old.codes.to(self._device, non_blocking=True),
                self._quantisers.tables(before),
                before.sections(pictures),
                before.columns,
                tables,
                known.sections(pictures),
                pictures,
                codes,
            )
        return [codes, *tables]

    def encode(
        self,
        values: Values,
        k: Tensor,
        v: Tensor,
        turns: Tensor | None,
        units: MapUnits,
        maps: Maps,
        threshold: int,
        basis: Tensor,
    ) -> Tensor:
        """See `LayerCodec`: four kernels."""
        codes, starts, steps = values
        known, number = self._quantisers.of(maps, threshold), maps.index(units)
        first = sum(one.tokens for one in maps[:number])
        places, mean, rows, columns = self._waves(units)
        coefficients = coded_waves(
            k, v, _angles(turns, slice(None)), places, mean, rows, columns, *_growth(units)
        )
        return coded_codes(
            coefficients,
            basis,
            known.with_bits[number],
            (starts, steps),
            known.columns[:, first : first + units.tokens],
            self._quantisers.levels,
            known.sections(len(k) // self._parts),
            self.gains,
            codes,
        )

    def packed(
        self, values: Values, maps: Maps, gains: tuple[Tensor, ...], threshold: int
    ) -> CodedMaps:
        """See `LayerCodec`: one kernel."""
        known, pictures = self._quantisers.of(maps, threshold), gains[0].shape[-1]
        codes = coded_packed(values[0], known.sections(pictures), known.nbytes_packed(pictures))
        return CodedMaps(maps, codes, gains, threshold, pictures)

    def _waves(self, units: MapUnits) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Places, means, waves of rows and of columns."""
        places, rows, columns = waves_of(units, self._device)
        return places, self._means[min(units.number, self._constants.maps - 1)], rows, columns


def _angles(turns: Tensor | None, rows: slice) -> Tensor | None:
    return None if turns is None else torch.view_as_real(turns[rows])


def _growth(units: MapUnits) -> tuple[float, bool]:
    """By what means are multiplied, and whether they are in every coefficient."""
    return (units.tokens**0.5, False) if units.transformed else (1.0, True)
