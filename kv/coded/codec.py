"""One layer's maps to packed codes and back. Knows constants and thresholds; nothing of when a
history is coded, or of caches."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from scalekv.kv.coded.constants import ALONE, GUIDED, Constants
from scalekv.kv.coded.layout import Layout, Layouts, Maps
from scalekv.kv.coded.levels import LEVELS, code_bytes
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
        self._means16: dict[int, Tensor] = {}

    def encode(
        self, k: Tensor, v: Tensor, turns: Tensor | None, units: MapUnits, threshold: int
    ) -> tuple[Tensor, Tensor]:
        """A map's k and v (P * B, H, n, D) as coefficients in steps, and its gains; see
        `signals_of` for `turns`."""
        signals = signals_of(k, v, turns, self._parts)
        signals -= self._means(units.number)
        y = self._basis.mT @ transformed(signals, units).flatten(4)
        y = y.view(-1, signals.shape[4], units.tokens)
        layout = self._layouts.of((units,), threshold)
        values = _scaled(y, layout.inverse, layout)
        gains = self._gains(_scaled(values.clone(), layout.deltas, layout), layout, signals.shape)
        values *= self._by_channel(gains).reciprocal_()
        return values, gains

    def decode(self, coded: CodedMaps, turns: Tensor | None, k_out: Tensor, v_out: Tensor) -> None:
        """Writes what codes stand for into (P * B, H, n, D) tensors, n tokens of all the maps."""
        layout = self._layouts.of(coded.maps, coded.threshold)
        y = self._values(coded, layout, layout.steps)
        first = 0
        for units, gains in zip(coded.maps, coded.gains, strict=True):
            y[..., first : first + units.tokens] *= self._by_channel(gains)
            first += units.tokens
        heads, dim = self._constants.heads, self._constants.head_dim
        z = self._basis @ y.view(2, self._parts, heads, dim, -1)
        z = z.view(*z.shape[:4], coded.pictures, -1)
        first = 0
        for units in coded.maps:
            some = z[..., first : first + units.tokens]
            torch.add(restored(some, units), self._means(units.number), out=some)
            first += units.tokens
        write_back(z, turns, k_out, v_out)

    def coarser(self, coded: CodedMaps, threshold: int) -> Tensor | None:
        """The coefficients in steps of a threshold that is not lower; None: no code changes."""
        old = self._layouts.of(coded.maps, coded.threshold)
        new = self._layouts.of(coded.maps, threshold)
        if old.counts == new.counts:  # a higher threshold gives no channel more bits
            return None
        return self._values(coded, old, old.steps * new.inverse)

    def values(self, coded: CodedMaps) -> Tensor:
        """The coefficients in steps."""
        layout = self._layouts.of(coded.maps, coded.threshold)
        return self._values(coded, layout, None)

    def packed(
        self, values: Tensor, maps: Maps, gains: tuple[Tensor, ...], threshold: int
    ) -> CodedMaps:
        """The codes of coefficients in steps."""
        layout = self._layouts.of(maps, threshold)
        levels: list[list[Tensor]] = [[] for _ in LEVELS]
        for number, span in enumerate(layout.spans):
            ordered = values[..., span].index_select(0, layout.order[number])
            for level, some in enumerate(ordered.split(layout.counts[number])):
                levels[level].append(some.flatten())
        parts = []
        for bits, some_codes in zip(LEVELS[1:], levels[1:], strict=True):
            codes = torch.cat(some_codes).add_(2 ** (bits - 1)).floor_().clamp_(0, 2**bits - 1)
            parts.append(pack(codes.to(torch.uint8), bits))
        return CodedMaps(maps, torch.cat(parts), gains, threshold, values.shape[1])

    def _values(self, coded: CodedMaps, layout: Layout, factor: Tensor | None) -> Tensor:
        """(C, B, n) coefficients in steps, times a factor (C, U)."""
        pictures = coded.pictures
        sizes = [layout.codes(level, pictures) for level in range(len(LEVELS))]
        packed = coded.codes.to(self._device, non_blocking=True).split(
            [code_bytes(sum(sizes[i]), LEVELS[i]) for i in range(1, len(LEVELS))]
        )
        levels = [
            unpack(some, LEVELS[i], sum(sizes[i])).float().add_(0.5 - 2 ** (LEVELS[i] - 1))
            for i, some in enumerate(packed, start=1)
        ]
        by_unit = [some.split(sizes[i]) for i, some in enumerate(levels, start=1)]
        channels = layout.order.shape[1]
        values = levels[0].new_empty((channels, pictures, layout.tokens))
        for number, (span, size) in enumerate(zip(layout.spans, layout.sizes, strict=True)):
            none = values.new_zeros((layout.counts[number][0], pictures, size))
            some = [level[number].view(-1, pictures, size) for level in by_unit]
            ordered = torch.cat([none, *some]).index_select(0, layout.places[number])
            if factor is not None:
                ordered *= factor[:, number, None, None]
            values[..., span] = ordered
        return values

    def _gains(self, z: Tensor, layout: Layout, shape: torch.Size) -> Tensor:
        """The root of the mean square of coefficients (C, B, n) in standard deviations, of those
        that have bits; the others are 0 here."""
        energy = z.square_().view(shape).sum((3, 5))  # (2, P, H, B)
        used = (layout.deltas > 0).float()
        sizes = torch.tensor(layout.sizes, device=used.device)
        count = (used * sizes).view(*shape[:4], -1).sum((3, 4)).unsqueeze(-1)
        rms = torch.where(count > 0, (energy / count.clamp_min(1)).sqrt(), 1.0)
        return rms.clamp(_LEAST_GAIN, _MOST_GAIN).half()

    def _by_channel(self, gains: Tensor) -> Tensor:
        """(2, P, H, B) to (C, B, 1) float32."""
        gains = gains.to(self._device, non_blocking=True).float()
        return gains.repeat_interleave(self._constants.head_dim, 2).flatten(0, 2)[..., None]

    @cached_property
    def _basis16(self) -> Tensor:
        return torch.from_numpy(self._constants.basis[self._layer]).to(self._device)

    @property
    def _basis(self) -> Tensor:
        """(2, 1, H, D, D) float32."""
        return self._basis16.float().unsqueeze(1)

    def _means(self, number: int) -> Tensor:
        """(2, P, H, D, 1, 1) float32 of map `number`; kept as float16, the same both ways."""
        if number not in self._means16:
            means = self._constants.means(self._layer, self._slice, number)
            self._means16[number] = torch.from_numpy(means).to(self._device, torch.float16)
        return self._means16[number].float()[..., None, None]


@lru_cache(maxsize=256)
def codec_of(constants: Constants, layer: int, guided: bool, device: torch.device) -> LayerCodec:
    """The codec of a layer, the same one for all pictures that use the constants."""
    return LayerCodec(constants, layer, GUIDED if guided else ALONE, device)


def _scaled(x: Tensor, factor: Tensor, layout: Layout) -> Tensor:
    """x (C, B, n) times a factor (C, U), in place."""
    for number, span in enumerate(layout.spans):
        x[..., span] *= factor[:, number, None, None]
    return x
