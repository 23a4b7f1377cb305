"""One layer's maps to packed codes and back. Knows constants and thresholds; nothing of when a
history is coded, or of caches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import torch
from torch import Tensor

from scalekv.kv.coded.constants import ALONE, GUIDED, Constants
from scalekv.kv.coded.layout import Layout, Layouts, Maps
from scalekv.kv.coded.levels import LEVELS, TOGETHER, code_bytes
from scalekv.kv.coded.packing import pack, unpack
from scalekv.kv.coded.signals import restored, signals_of, transformed, write_back
from scalekv.kv.coded.units import MapUnits

_LEAST_GAIN, _MOST_GAIN = 0.25, 4.0


@dataclass(frozen=True, eq=False)
class CodedMaps:
    """Some maps in a row as they are held.

    Attributes:
        maps: which they are.
        codes: (bytes,) uint8, packed in the order of `Layout`.
        gains: of each map (2, P, H, B) float16: what the standard deviations are to be multiplied
            by, of keys and values, part, head and picture.
        threshold: that the bits were given by.
        pictures: B.
    """

    maps: Maps
    codes: Tensor
    gains: tuple[Tensor, ...]
    threshold: int
    pictures: int


class LayerCodec:
    """Codes maps of one layer. Coefficients are (C, B, n) float32, see `Layout`."""

    def __init__(
        self, constants: Constants, layer: int, parts: slice, device: torch.device
    ) -> None:
        """`parts`: see `scalekv.kv.coded.constants.GUIDED`."""
        self._constants, self._layer, self._slice, self._device = constants, layer, parts, device
        self._parts = parts.stop - parts.start
        self._layouts = Layouts(constants, layer, parts, device)

    def encode(
        self,
        k: Tensor,
        v: Tensor,
        turns: Tensor | None,
        units: MapUnits,
        maps: Maps,
        threshold: int,
    ) -> tuple[Tensor, Tensor]:
        """A map's k and v (P * B, H, n, D) as coefficients in steps, and its gains.

        Args:
            turns: see `signals_of`.
            units: of the map, one of `maps`, which are to be packed together.
        """
        layout = self._layouts.of(maps, threshold)
        columns = layout.columns(units)
        inverse, deltas = (
            self._by_head(x[:, columns]).unsqueeze(4) for x in (layout.inverse, layout.deltas)
        )
        shape = (2, self._parts, *self._sizes, len(k) // self._parts, units.tokens)
        y, gains = k.new_empty(shape, dtype=torch.float32), []
        basis, means = self._basis, self._means(units.number)
        for heads in self._stretches(shape[4] * shape[5]):
            signals = signals_of(k[:, heads], v[:, heads], turns, self._parts)
            signals -= means[:, :, heads]
            part = basis[:, :, heads].mT @ transformed(signals, units).flatten(4)
            part = _scaled(part.view(signals.shape), inverse[:, :, heads], units.sizes)
            gain = _gains(part, deltas[:, :, heads], units)
            torch.div(part, gain[:, :, :, None, :, None].float(), out=part)
            y[:, :, heads] = part
            gains.append(gain)
        return y.view(-1, *shape[4:]), torch.cat(gains, dim=2)

    def decode(self, coded: CodedMaps, turns: Tensor | None, k_out: Tensor, v_out: Tensor) -> None:
        """Writes what codes stand for into (P * B, H, n, D) tensors, n tokens of all the maps."""
        layout = self._layouts.of(coded.maps, coded.threshold)
        y = self._by_head(self._values(coded, layout))
        gains = torch.stack(coded.gains, dim=-1).to(self._device, non_blocking=True).float()
        gains = gains.repeat_interleave(
            layout.units_of_maps, dim=-1, output_size=len(layout.sizes)
        )  # (2, P, H, B, U)
        factors = self._by_head(layout.steps).unsqueeze(4) * gains.unsqueeze(3)
        tokens = [units.tokens for units in coded.maps]
        basis, means = self._basis, [self._means(units.number) for units in coded.maps]
        for heads in self._stretches(coded.pictures * sum(tokens)):
            part = _scaled(y[:, :, heads], factors[:, :, heads], layout.sizes)
            z = (basis[:, :, heads] @ part.flatten(4)).view(part.shape)
            pieces = z.split(tokens, dim=-1)
            for units, piece, mean in zip(coded.maps, pieces, means, strict=True):
                torch.add(restored(piece, units), mean[:, :, heads], out=piece)
            write_back(z, turns, k_out[:, heads], v_out[:, heads])

    def coarser(self, coded: CodedMaps, maps: Maps, threshold: int) -> Tensor | None:
        """The coefficients in steps of a threshold that is not lower; None: no code changes.

        Args:
            maps: those held and others behind them, which are to be packed together.
        """
        old = self._layouts.of(coded.maps, coded.threshold)
        new = self._layouts.of(maps, threshold)
        units = len(old.sizes)
        if old.counts == new.counts[:units]:  # a higher threshold gives no channel more bits
            return None
        factors = (old.steps * new.inverse[:, :units]).unsqueeze(1)
        return _scaled(self._values(coded, old), factors, old.sizes)

    def values(self, coded: CodedMaps) -> Tensor:
        """The coefficients in steps."""
        layout = self._layouts.of(coded.maps, coded.threshold)
        return self._values(coded, layout)

    def packed(
        self, values: Tensor, maps: Maps, gains: tuple[Tensor, ...], threshold: int
    ) -> CodedMaps:
        """The codes of coefficients in steps."""
        layout = self._layouts.of(maps, threshold)
        parts = []
        for bits, level in zip(LEVELS[1:], layout.places.gather(values), strict=True):
            codes = level.add_(2 ** (bits - 1)).floor_().clamp_(0, 2**bits - 1)
            parts.append(pack(codes.to(torch.uint8), bits))
        return CodedMaps(maps, torch.cat(parts), gains, threshold, values.shape[1])

    def _values(self, coded: CodedMaps, layout: Layout) -> Tensor:
        """(C, B, n) coefficients in steps."""
        counts = [codes * coded.pictures for codes in layout.codes]
        packed = coded.codes.to(self._device, non_blocking=True).split(
            [code_bytes(count, bits) for count, bits in zip(counts, LEVELS[1:], strict=True)]
        )
        levels = [
            unpack(piece, bits, count).float().add_(0.5 - 2 ** (bits - 1))
            for piece, bits, count in zip(packed, LEVELS[1:], counts, strict=True)
        ]
        return layout.places.scatter(levels, coded.pictures)

    def _by_head(self, x: Tensor) -> Tensor:
        """(C, …) as (2, P, H, D, …)."""
        return x.reshape(2, self._parts, *self._sizes, *x.shape[1:])

    @property
    def _sizes(self) -> tuple[int, int]:
        return self._constants.heads, self._constants.head_dim

    def _stretches(self, coefficients: int) -> list[slice]:
        """Heads that are worked on in one go, so many coefficients in each channel."""
        heads, dim = self._sizes
        together = max(TOGETHER // (2 * self._parts * dim * max(coefficients, 1)), 1)
        return [slice(first, first + together) for first in range(0, heads, together)]

    @cached_property
    def _basis16(self) -> Tensor:
        return torch.from_numpy(self._constants.basis[self._layer]).to(self._device)

    @property
    def _basis(self) -> Tensor:
        """(2, 1, H, D, D) float32."""
        return self._basis16.float().unsqueeze(1)

    @cached_property
    def _means16(self) -> Tensor:
        maps = range(self._constants.maps)
        means = [self._constants.means(self._layer, self._slice, number) for number in maps]
        return torch.from_numpy(np.stack(means, axis=-1)).to(self._device, torch.float16)

    def _means(self, number: int) -> Tensor:
        """(2, P, H, D, 1, 1) float32 of map `number`; kept as float16, the same both ways."""
        mean = self._means16[..., min(number, self._constants.maps - 1)]
        return mean.float()[..., None, None]


@lru_cache(maxsize=256)
def codec_of(constants: Constants, layer: int, guided: bool, device: torch.device) -> LayerCodec:
    """The codec of a layer, the same one for all pictures that use the constants."""
    return LayerCodec(constants, layer, GUIDED if guided else ALONE, device)


# An ordinary tensor even under inference mode: it is kept, and used outside of it too.
@lru_cache(maxsize=256)
@torch.inference_mode(False)
def _members(units: MapUnits, device: torch.device) -> Tensor:
    """(n, U) float32: 1 where a coefficient is of a unit."""
    unit = np.repeat(np.arange(len(units.sizes)), units.sizes)
    return torch.from_numpy(np.eye(len(units.sizes), dtype=np.float32)[unit]).to(device)


def _gains(y: Tensor, deltas: Tensor, units: MapUnits) -> Tensor:
    """(2, P, H, B) float16: the root of the mean square, in standard deviations, of coefficients
    (2, P, H, D, B, n) in steps of `deltas` (2, P, H, D, 1, U), of those that have bits; the others
    are 0 here."""
    members = _members(units, y.device)
    energy = (y.square() @ members).mul_(deltas.square()).sum((3, 5))
    count = ((deltas > 0).float() @ members.sum(0)).sum(3)
    rms = (energy / count.clamp_min(1)).sqrt()
    return rms.clamp(_LEAST_GAIN, _MOST_GAIN).half()


def _scaled(x: Tensor, factors: Tensor, sizes: Sequence[int]) -> Tensor:
    """x (…, n) times factors (…, U) by unit, in place."""
    by_unit = x.split(list(sizes), dim=-1)
    for unit, factor in zip(by_unit, factors.unsqueeze(-1).unbind(-2), strict=True):
        unit.mul_(factor)
    return x
