"""One layer's maps to packed codes and back. Knows constants and thresholds; nothing of when a
history is coded, or of caches."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from scalekv.kv.coded.constants import Constants
from scalekv.kv.coded.levels import LEVELS, OCTAVE, OFFSETS, STEPS, code_bytes
from scalekv.kv.coded.packing import pack, unpack
from scalekv.kv.coded.signals import restored, signals_of, transformed, write_back
from scalekv.kv.coded.units import MapUnits

_LEAST_GAIN, _MOST_GAIN = 0.25, 4.0


@dataclass(frozen=True, eq=False)
class CodedMap:
    """A map as it is held.

    Attributes:
        codes: (bytes,) uint8, packed; see `LayerCodec` for their order.
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
class _Layout:
    """Where each coefficient's code lies, and its quantiser. Rows are the C = 2 P H D channels.

    Attributes:
        levels: (C, U) int64 index into `LEVELS`.
        order: (U, C) int64 channels sorted by level.
        counts: [unit][level] channels.
    """

    units: MapUnits
    levels: Tensor
    order: Tensor
    counts: tuple[tuple[int, ...], ...]

    @cached_property
    def places(self) -> Tensor:
        """(U, C) int64: where among the sorted channels each one is."""
        return self.order.argsort(dim=1)

    def codes(self, level: int, pictures: int) -> int:
        """Of one level, all units and pictures together."""
        sizes = self.units.sizes
        return sum(n * row[level] for n, row in zip(sizes, self.counts, strict=True)) * pictures

    def table(self, values: tuple[float, ...]) -> Tensor:
        """(C, U) float32 of one number for each level."""
        return torch.tensor(values, device=self.levels.device)[self.levels]

    @property
    def most(self) -> Tensor:
        """(C, U) the largest code."""
        return self.table(tuple(2.0**bits - 1 for bits in LEVELS))

    @property
    def centre(self) -> Tensor:
        """(C, U): a code c stands for (c + 0.5 - centre) steps; 0.5 for no bits, which is 0."""
        return self.table(tuple(2.0 ** (bits - 1) for bits in LEVELS))

    @property
    def steps(self) -> Tensor:
        """(C, U) in standard deviations; 0 for no bits."""
        return self.table(tuple(STEPS[bits] for bits in LEVELS))


class LayerCodec:
    """Codes maps of one layer.

    A map's packed codes are the levels from the lowest on; in a level the units in order; in a unit
    the channels of that level in order (keys before values, middle before side, heads, channels of
    the basis); in a channel the pictures; then coefficients.
    """

    def __init__(
        self, constants: Constants, layer: int, parts: slice, device: torch.device
    ) -> None:
        """`parts`: see `scalekv.kv.coded.constants.GUIDED`."""
        self._constants, self._layer, self._parts, self._device = constants, layer, parts, device
        self._layouts: dict[tuple[MapUnits, int], _Layout] = {}

    def encode(
        self, k: Tensor, v: Tensor, turns: Tensor | None, units: MapUnits, threshold: int
    ) -> CodedMap:
        """Codes a map's k and v (P * B, H, n, D); see `signals_of` for `turns`."""
        parts = self._parts.stop - self._parts.start
        signals = signals_of(k, v, turns, parts)
        signals -= self._means(units)
        shape = signals.shape
        y = self._basis.mT @ transformed(signals, units).flatten(0, 2).flatten(2)
        y = y.view(-1, shape[4], units.tokens)  # (C, B, n)
        layout = self._layout(units, threshold)
        sigma = self._sigma(units)
        gains = self._gains(y, layout, sigma, shape)
        y /= self._by_channel(gains)
        scaled = _affine(y, _inverse(layout.steps * sigma), layout.centre, units)
        return self._packed(scaled, layout, gains, threshold)

    def decode(
        self, coded: CodedMap, units: MapUnits, turns: Tensor | None, k_out: Tensor, v_out: Tensor
    ) -> None:
        """Writes what a map's codes stand for into (P * B, H, n, D) tensors."""
        layout = self._layout(units, coded.threshold)
        steps = layout.steps * self._sigma(units)
        y = _affine(
            self._unpacked(coded, layout).float(), steps, (0.5 - layout.centre) * steps, units
        )
        y *= self._by_channel(coded.gains)
        parts = self._parts.stop - self._parts.start
        heads, dim = self._constants.heads, self._constants.head_dim
        z = self._basis @ y.view(2 * parts * heads, dim, -1)
        signals = restored(z.view(2, parts, heads, dim, coded.pictures, -1), units)
        signals += self._means(units)
        write_back(signals, turns, k_out, v_out)

    def recode(self, coded: CodedMap, units: MapUnits, threshold: int) -> CodedMap:
        """The map under a higher threshold: codes to codes, those of as many bits as they were."""
        old, new = self._layout(units, coded.threshold), self._layout(units, threshold)
        if old.counts == new.counts:  # a higher threshold gives no channel more bits
            return CodedMap(coded.codes, coded.gains, threshold, coded.pictures)
        ratio = torch.where(new.steps > 0, old.steps * _inverse(new.steps), 0)
        shift = (0.5 - old.centre) * ratio + new.centre
        scaled = _affine(self._unpacked(coded, old).float(), ratio, shift, units)
        return self._packed(scaled, new, coded.gains, threshold)

    def _gains(self, y: Tensor, layout: _Layout, sigma: Tensor, shape: torch.Size) -> Tensor:
        used = (layout.levels > 0).float()
        sizes = torch.tensor(layout.units.sizes, device=used.device)
        z = _affine(y.clone(), used / sigma, None, layout.units)
        energy = z.square_().view(shape).sum((3, 5))  # (2, P, H, B)
        count = (used * sizes).view(*shape[:4], -1).sum((3, 4)).unsqueeze(-1)
        rms = (energy / count.clamp_min(1)).sqrt()
        rms = torch.where(count > 0, rms, 1.0)
        return rms.clamp(_LEAST_GAIN, _MOST_GAIN).half()

    def _by_channel(self, gains: Tensor) -> Tensor:
        """(2, P, H, B) to (C, B, 1) float32."""
        return gains.float().repeat_interleave(self._constants.head_dim, 2).flatten(0, 2)[..., None]

    def _packed(self, scaled: Tensor, layout: _Layout, gains: Tensor, threshold: int) -> CodedMap:
        """From coefficients (C, B, n) in steps, so shifted that a code is the floor."""
        most, units = layout.most, layout.units
        codes = torch.empty_like(scaled, dtype=torch.uint8)
        for number, span in enumerate(units.spans):
            some = scaled[..., span].floor_().clamp_min_(0)
            codes[..., span] = torch.minimum(some, most[:, number, None, None])
        levels: list[list[Tensor]] = [[] for _ in LEVELS]
        for number, span in enumerate(units.spans):
            ordered = codes[..., span].index_select(0, layout.order[number])
            for level, some in enumerate(ordered.split(layout.counts[number])):
                levels[level].append(some.flatten())
        parts = [pack(torch.cat(levels[i]), LEVELS[i]) for i in range(1, len(LEVELS))]
        return CodedMap(torch.cat(parts), gains, threshold, scaled.shape[1])

    def _unpacked(self, coded: CodedMap, layout: _Layout) -> Tensor:
        """(C, B, n) uint8."""
        units, pictures = layout.units, coded.pictures
        counts = [layout.codes(level, pictures) for level in range(len(LEVELS))]
        packed = coded.codes.to(self._device, non_blocking=True).split(
            [code_bytes(counts[i], LEVELS[i]) for i in range(1, len(LEVELS))]
        )
        levels = [
            unpack(some, LEVELS[i], counts[i]).split(
                [n * row[i] * pictures for n, row in zip(units.sizes, layout.counts, strict=True)]
            )
            for i, some in enumerate(packed, start=1)
        ]
        codes = torch.empty(
            (layout.levels.shape[0], pictures, units.tokens), dtype=torch.uint8, device=self._device
        )
        for number, (span, size) in enumerate(zip(units.spans, units.sizes, strict=True)):
            none = codes.new_zeros((layout.counts[number][0], pictures, size))
            some = [level[number].view(-1, pictures, size) for level in levels]
            codes[..., span] = torch.cat([none, *some]).index_select(0, layout.places[number])
        return codes

    @cached_property
    def _basis(self) -> Tensor:
        """(2 P H, D, D) float32."""
        parts = self._parts.stop - self._parts.start
        basis = torch.from_numpy(self._constants.basis[self._layer]).to(self._device).float()
        return basis[:, None].expand(-1, parts, -1, -1, -1).flatten(0, 2)

    def _means(self, units: MapUnits) -> Tensor:
        """(2, P, H, D, 1, 1) float32."""
        means = self._constants.means(self._layer, self._parts, units.number)
        return torch.from_numpy(means).to(self._device)[..., None, None]

    def _sigma(self, units: MapUnits) -> Tensor:
        """(C, U) float32 standard deviations of coefficients."""
        variances = self._constants.variances(self._layer, self._parts, units)
        logs = torch.from_numpy(variances).to(self._device).transpose(3, 4).flatten(0, 3)
        return torch.exp2(logs / (2 * OCTAVE))

    def _layout(self, units: MapUnits, threshold: int) -> _Layout:
        known = self._layouts.get((units, threshold))
        if known is None:
            q = self._constants.importances(self._layer, self._parts, units)
            q = torch.from_numpy(q).transpose(3, 4).flatten(0, 3)  # (C, U)
            levels = torch.zeros(q.shape, dtype=torch.int64)
            for offset in OFFSETS:
                levels += q >= threshold + offset
            order = levels.mT.argsort(dim=1, stable=True)
            counts = [
                tuple(torch.bincount(some, minlength=len(LEVELS)).tolist()) for some in levels.mT
            ]
            known = _Layout(units, levels.to(self._device), order.to(self._device), tuple(counts))
            self._layouts[units, threshold] = known
        return known


def _affine(x: Tensor, factor: Tensor, term: Tensor | None, units: MapUnits) -> Tensor:
    """x (C, B, n) times a factor plus a term, both (C, U), in place."""
    for number, span in enumerate(units.spans):
        some = x[..., span]
        some *= factor[:, number, None, None]
        if term is not None:
            some += term[:, number, None, None]
    return x


def _inverse(x: Tensor) -> Tensor:
    """1 / x, and 0 for 0."""
    return torch.where(x > 0, 1 / x, 0)
