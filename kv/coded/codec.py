"""One layer's maps to packed codes and back. Knows constants and thresholds; nothing of when a
history is coded, or of caches."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from scalekv.kv.coded.constants import ALONE, GUIDED, Constants
from scalekv.kv.coded.layout import Layout, Layouts
from scalekv.kv.coded.levels import LEVELS, OCTAVE, code_bytes
from scalekv.kv.coded.packing import pack, unpack
from scalekv.kv.coded.signals import restored, signals_of, transformed, write_back
from scalekv.kv.coded.units import MapUnits

_LEAST_GAIN, _MOST_GAIN = 0.25, 4.0
_EACH = 256  # up to so many tokens a map's factors are spread over its coefficients in one go


@dataclass(frozen=True, eq=False)
class CodedMap:
    """A map as it is held.

    Attributes:
        codes: (bytes,) uint8, packed in the order of `Layout`.
        gains: (2, P, H, B) float16: what the standard deviations are to be multiplied by, of keys
            and values, part, head and picture.
        threshold: that the bits were given by.
        pictures: B.
    """

    codes: Tensor
    gains: Tensor
    threshold: int
    pictures: int


@dataclass(frozen=True, eq=False)
class Scaled:
    """Coefficients on their way to codes.

    Attributes:
        values: (C, B, n) float32 in steps, so shifted that a code is the floor.
    """

    values: Tensor
    gains: Tensor
    threshold: int


class LayerCodec:
    """Codes maps of one layer."""

    def __init__(
        self, constants: Constants, layer: int, parts: slice, device: torch.device
    ) -> None:
        """`parts`: see `scalekv.kv.coded.constants.GUIDED`."""
        self._layer, self._slice, self._device = layer, parts, device
        self._parts = parts.stop - parts.start
        self._constants = constants
        self._layouts = Layouts(constants, layer, parts, device)

    def encode(
        self, k: Tensor, v: Tensor, turns: Tensor | None, units: MapUnits, threshold: int
    ) -> CodedMap:
        """Codes a map's k and v (P * B, H, n, D); see `signals_of` for `turns`."""
        signals = signals_of(k, v, turns, self._parts)
        signals -= self._means(units)
        y = self._basis.mT @ transformed(signals, units).flatten(4)
        y = y.view(-1, signals.shape[4], units.tokens)  # (C, B, n)
        layout, sigma = self._layouts.of(units, threshold), self._sigma(units)
        gains = self._gains(y, layout, sigma, signals.shape)
        y /= self._by_channel(gains)
        values = _affine(y, _inverse(layout.steps * sigma), layout.centre, units)
        return self.packed(Scaled(values, gains, threshold), units)

    def decode(
        self, coded: CodedMap, units: MapUnits, turns: Tensor | None, k_out: Tensor, v_out: Tensor
    ) -> None:
        """Writes what a map's codes stand for into (P * B, H, n, D) tensors."""
        layout = self._layouts.of(units, coded.threshold)
        steps = layout.steps * self._sigma(units)
        y = _affine(self._unpacked(coded, layout), steps, (0.5 - layout.centre) * steps, units)
        y *= self._by_channel(coded.gains)
        heads, dim = self._constants.heads, self._constants.head_dim
        z = self._basis @ y.view(2, self._parts, heads, dim, -1)
        signals = restored(z.view(*z.shape[:4], coded.pictures, -1), units)
        signals += self._means(units)
        write_back(signals, turns, k_out, v_out)

    def coarser(self, coded: CodedMap, units: MapUnits, threshold: int) -> Scaled | None:
        """The map for a threshold that is not lower, from code to code; None: its codes stay."""
        old, new = self._layouts.of(units, coded.threshold), self._layouts.of(units, threshold)
        if old.counts == new.counts:  # a higher threshold gives no channel more bits
            return None
        ratio = old.steps * _inverse(new.steps)
        shift = (0.5 - old.centre) * ratio + new.centre
        return Scaled(
            _affine(self._unpacked(coded, old), ratio, shift, units), coded.gains, threshold
        )

    def packed(self, scaled: Scaled, units: MapUnits) -> CodedMap:
        """The codes of coefficients, which are overwritten."""
        layout, values = self._layouts.of(units, scaled.threshold), scaled.values
        values.floor_().clamp_min_(0)
        most = layout.most
        if units.tokens <= _EACH:
            torch.minimum(values, _spread(most, units), out=values)
        else:
            for number, span in enumerate(units.spans):
                some = values[..., span]
                torch.minimum(some, most[:, number, None, None], out=some)
        codes = values.to(torch.uint8)
        levels: list[list[Tensor]] = [[] for _ in LEVELS]
        for number, span in enumerate(units.spans):
            ordered = codes[..., span].index_select(0, layout.order[number])
            for level, some in enumerate(ordered.split(layout.counts[number])):
                levels[level].append(some.flatten())
        parts = [pack(torch.cat(levels[i]), LEVELS[i]) for i in range(1, len(LEVELS))]
        return CodedMap(torch.cat(parts), scaled.gains, scaled.threshold, values.shape[1])

    def _unpacked(self, coded: CodedMap, layout: Layout) -> Tensor:
        """(C, B, n) float32 codes."""
        units, pictures = layout.units, coded.pictures
        sizes = [layout.codes(level, pictures) for level in range(len(LEVELS))]
        packed = coded.codes.to(self._device, non_blocking=True).split(
            [code_bytes(sum(sizes[i]), LEVELS[i]) for i in range(1, len(LEVELS))]
        )
        levels = [
            unpack(some, LEVELS[i], sum(sizes[i])).split(sizes[i])
            for i, some in enumerate(packed, start=1)
        ]
        codes = torch.empty((layout.levels.shape[0], pictures, units.tokens), device=self._device)
        for number, (span, size) in enumerate(zip(units.spans, units.sizes, strict=True)):
            none = packed[0].new_zeros((layout.counts[number][0], pictures, size))
            some = [level[number].view(-1, pictures, size) for level in levels]
            codes[..., span] = torch.cat([none, *some]).index_select(0, layout.places[number])
        return codes

    def _gains(self, y: Tensor, layout: Layout, sigma: Tensor, shape: torch.Size) -> Tensor:
        """The root of the mean square of coefficients that have bits, in standard deviations."""
        used = (layout.levels > 0).float()
        sizes = torch.tensor(layout.units.sizes, device=used.device)
        z = _affine(y.clone(), used / sigma, None, layout.units)
        energy = z.square_().view(shape).sum((3, 5))  # (2, P, H, B)
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

    def _means(self, units: MapUnits) -> Tensor:
        """(2, P, H, D, 1, 1) float32."""
        means = self._constants.means(self._layer, self._slice, units.number)
        return torch.from_numpy(means).to(self._device)[..., None, None]

    def _sigma(self, units: MapUnits) -> Tensor:
        """(C, U) float32 standard deviations of coefficients."""
        variances = self._constants.variances(self._layer, self._slice, units)
        logs = torch.from_numpy(variances).to(self._device).transpose(3, 4).flatten(0, 3)
        return torch.exp2(logs / (2 * OCTAVE))


@lru_cache(maxsize=256)
def codec_of(constants: Constants, layer: int, guided: bool, device: torch.device) -> LayerCodec:
    """The codec of a layer, the same one for all pictures that use the constants."""
    return LayerCodec(constants, layer, GUIDED if guided else ALONE, device)


def _affine(x: Tensor, factor: Tensor, term: Tensor | None, units: MapUnits) -> Tensor:
    """x (C, B, n) times a factor plus a term, both (C, U), in place."""
    if units.tokens <= _EACH:
        x *= _spread(factor, units)
        if term is not None:
            x += _spread(term, units)
        return x
    for number, span in enumerate(units.spans):
        some = x[..., span]
        some *= factor[:, number, None, None]
        if term is not None:
            some += term[:, number, None, None]
    return x


def _spread(x: Tensor, units: MapUnits) -> Tensor:
    """(C, U) of units to (C, 1, n) of their coefficients."""
    if len(units.sizes) == 1:
        return x[..., None]
    sizes = torch.tensor(units.sizes, device=x.device)
    return x.repeat_interleave(sizes, dim=1, output_size=units.tokens).unsqueeze(1)


def _inverse(x: Tensor) -> Tensor:
    """1 / x, and 0 for 0."""
    return torch.where(x > 0, 1 / x, 0)
