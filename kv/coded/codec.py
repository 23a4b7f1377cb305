"""One layer's maps to packed codes and back. Knows constants and thresholds; nothing of when a
history is coded, or of caches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import torch
from torch import Tensor

from scalekv.kv.coded.constants import Constants
from scalekv.kv.coded.layout import CodedBlock, Layout, Layouts
from scalekv.kv.coded.levels import LEVELS, TOGETHER, code_bytes
from scalekv.kv.coded.packing import pack, unpack
from scalekv.kv.coded.signals import restored, signals_of, transformed, write_back
from scalekv.kv.coded.units import Maps, MapUnits


@dataclass(frozen=True, eq=False)
class CodedMaps:
    """Some maps in a row as they are held.

    Attributes:
        maps: which they are.
        codes: (bytes,) uint8, packed in the order of `Layout`.
        gains: of each map (2, H, P, B) float16: what the standard deviations are to be multiplied
            by, of keys and values, head, part and picture.
        threshold: that the bits were given by.
        pictures: B.
    """

    maps: Maps
    codes: Tensor
    gains: tuple[Tensor, ...]
    threshold: int
    pictures: int


Values = list[Tensor]
"""What is to be packed, as a codec has it."""


class OfLayer:
    """A layer's bases and means on a device.

    Attributes:
        channels: of keys and values, all heads and parts.
        gains: the least and the most that a gain may be.
    """

    gains: tuple[float, float] = (0.25, 4.0)

    def __init__(
        self, constants: Constants, layer: int, parts: slice, device: torch.device
    ) -> None:
        """`parts`: see `scalekv.kv.coded.constants.GUIDED`."""
        self._constants, self._layer, self._slice, self._device = constants, layer, parts, device
        self._parts = parts.stop - parts.start
        self.channels = constants.channels(parts)

    @cached_property
    def _basis(self) -> Tensor:
        """(2, H, D, D) float16: rows are the basis's channels."""
        basis = torch.from_numpy(self._constants.basis[self._layer]).to(self._device)
        return basis.mT.contiguous()

    def bases(self) -> Tensor:
        """(2, H, D, D) float32: rows are the basis's channels."""
        return self._basis.float()

    @cached_property
    def _means(self) -> Tensor:
        """(K, 2, H, P, D) float16."""
        maps = range(self._constants.maps)
        means = [self._constants.means(self._layer, self._slice, number) for number in maps]
        by_part = np.ascontiguousarray(np.stack(means).swapaxes(2, 3), dtype=np.float16)
        return torch.from_numpy(by_part).to(self._device)

    def _stacked(self, gains: tuple[Tensor, ...]) -> Tensor:
        """(maps, 2, H, P, B) float16."""
        together = gains[0].unsqueeze(0) if len(gains) == 1 else torch.stack(gains)
        return together.to(self._device, non_blocking=True)


class LayerCodec(OfLayer):
    """Codes maps of one layer by torch's own operations. Values are blocks of coefficients (kinds,
    H, D', P', n, B) float32 as `Layout` has them, divided by their gains."""

    def __init__(
        self, constants: Constants, layer: int, parts: slice, device: torch.device
    ) -> None:
        """`parts`: see `scalekv.kv.coded.constants.GUIDED`."""
        super().__init__(constants, layer, parts, device)
        self._layouts = Layouts(constants, layer, parts, device)

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
        """Adds the values of a map's k and v (P * B, H, n, D); returns its gains.

        Args:
            values: of the maps before it, which `begun` has begun.
            turns: see `signals_of`.
            units: of the map, one of `maps`, which are to be packed together.
            basis: see `decode`.
        """
        layout, number = self._layouts.of(maps, threshold), maps.index(units)
        pictures = len(k) // self._parts
        found: dict[int, list[Tensor]] = {n: [] for n in layout.of_map(number)}
        tokens: list[tuple[Tensor, Tensor | None]] = [(k, turns), (v, None)]
        for heads in self._stretches(pictures * units.tokens):
            for kinds in layout.kinds:
                signals = [signals_of(x[:, heads], turn, self._parts) for x, turn in tokens[kinds]]
                both = torch.stack(signals) if len(signals) > 1 else signals[0].unsqueeze(0)
                for parts in layout.parts:
                    numbers = layout.of_chain(number, kinds, parts)
                    blocks = [layout.blocks[n] for n in numbers]
                    pieces = self._forward(both[:, :, parts], units, blocks, heads, basis)
                    for n, piece in zip(numbers, pieces, strict=True):
                        found[n].append(piece)
        new = [x[0] if len(x) == 1 else torch.cat(x, dim=1) for x in found.values()]
        blocks = [layout.blocks[n] for n in found]
        energy = _energy(new, blocks, layout.weights[number], units, pictures)
        gains = energy.sqrt_().clamp_(*self.gains).half()
        rounded = gains.float()
        for value, block in zip(new, blocks, strict=True):
            value.div_(_of_block(rounded, block))
        values += new
        return gains

    def decode(
        self,
        coded: CodedMaps,
        turns: Tensor | None,
        k_out: Tensor,
        v_out: Tensor,
        basis: Tensor,
    ) -> None:
        """Writes what codes stand for into (P * B, H, n, D) tensors, n tokens of all the maps.

        Args:
            basis: of `bases`, made once for many maps.
        """
        layout = self._layouts.of(coded.maps, coded.threshold)
        values = self._values(coded, layout)
        gains = self._stacked(coded.gains).float()
        for value, block in zip(values, layout.blocks, strict=True):
            value.mul_(_of_block(gains[block.number], block))
        first = 0
        for numbers in layout.together:
            maps = [coded.maps[number] for number in numbers]
            tokens = sum(units.tokens for units in maps)
            rows = slice(first, first + tokens)
            here = None if turns is None else turns[rows]
            outs = [(k_out[:, :, rows], here), (v_out[:, :, rows], None)]
            for heads in self._stretches(coded.pictures * tokens):
                for kinds in layout.kinds:
                    signals = [
                        self._back(values, layout, numbers, kinds, parts, heads, coded, basis)
                        for parts in layout.parts
                    ]
                    for place, (out, turn) in enumerate(outs[kinds]):
                        write_back(
                            [x for s in signals for x in s[place].unbind(1)], turn, out[:, heads]
                        )
            first += tokens

    def changes(self, coded: CodedMaps, threshold: int) -> bool:
        """Whether any code is another under a threshold that is not lower."""
        old = self._layouts.of(coded.maps, coded.threshold)
        new = self._layouts.of(coded.maps, threshold)
        # a higher threshold gives no channel more bits
        return not np.array_equal(old.counts, new.counts)

    def begun(self, old: CodedMaps | None, maps: Maps, threshold: int, pictures: int) -> Values:
        """The values of the maps that are held, under a threshold that is not lower; of none yet.

        Args:
            maps: those held and others behind them, which are to be packed together.
        """
        if old is None:
            return []
        layout = self._layouts.of(old.maps, old.threshold)
        new = self._layouts.of(maps, threshold)
        return new.taken_from(layout, self._values(old, layout))

    def packed(
        self, values: Values, maps: Maps, gains: tuple[Tensor, ...], threshold: int
    ) -> CodedMaps:
        """The codes of all values, which are not needed any more."""
        layout = self._layouts.of(maps, threshold)
        levels = layout.places.quantised(values) if values else []
        parts = [pack(codes, bits) for codes, bits in zip(levels, LEVELS[1:], strict=bool(values))]
        none = gains[0].new_empty(0, dtype=torch.uint8)
        return CodedMaps(maps, torch.cat([none, *parts]), gains, threshold, gains[0].shape[-1])

    def _forward(
        self,
        signals: Tensor,
        units: MapUnits,
        blocks: Sequence[CodedBlock],
        heads: slice,
        basis: Tensor,
    ) -> list[Tensor]:
        """Blocks, all of the same kinds and parts, of signals (kinds, H, P', n, B, D)."""
        if not blocks:
            return []
        kinds, parts = blocks[0].kinds, blocks[0].parts
        coefficients = transformed(signals, units, blocks[-1].units.stop)
        self._shift(coefficients, units, kinds, parts, heads, -1)
        basis, values = basis[kinds, heads], []
        for block in blocks:
            inside = coefficients[:, :, :, units.columns(block.units)]
            value = basis[..., block.least :, :] @ inside.flatten(2, 4).mT
            values.append(value.unflatten(-1, inside.shape[2:5]))
        return values

    def _back(
        self,
        values: Sequence[Tensor],
        layout: Layout,
        numbers: Sequence[int],
        kinds: slice,
        parts: slice,
        heads: slice,
        coded: CodedMaps,
        basis: Tensor,
    ) -> Tensor:
        """Signals (kinds, H, P', n, B, D) of some maps in a row."""
        basis, maps = basis[kinds, heads], []
        for number in numbers:
            units, pieces = coded.maps[number], []
            for n in layout.of_chain(number, kinds, parts):
                value, least = values[n][:, heads], layout.blocks[n].least
                piece = value.flatten(3).mT @ basis[..., least:, :]
                pieces.append(piece.unflatten(2, value.shape[3:]))
            if not pieces:
                shape = (
                    *basis.shape[:2],
                    parts.stop - parts.start,
                    1,
                    coded.pictures,
                    basis.shape[2],
                )
                pieces = [basis.new_zeros(shape)]
            together = pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=3)
            if not units.transformed and together.shape[3] < units.tokens:
                together = together.repeat_interleave(units.tokens, dim=3)
            self._shift(together, units, kinds, parts, heads, 1)
            maps.append(restored(together, units))
        return maps[0] if len(maps) == 1 else torch.cat(maps, dim=3)

    def _shift(
        self,
        coefficients: Tensor,
        units: MapUnits,
        kinds: slice,
        parts: slice,
        heads: slice,
        sign: int,
    ) -> None:
        """Adds a map's mean, or takes it away: it is in one coefficient of a transformed map."""
        number = min(units.number, self._constants.maps - 1)
        mean = self._means[number, kinds, heads, parts, None, None]
        if units.transformed:
            coefficients[:, :, :, :1].add_(mean, alpha=sign * units.tokens**0.5)
        else:
            coefficients.add_(mean, alpha=sign)

    def _values(self, coded: CodedMaps, layout: Layout) -> list[Tensor]:
        if not layout.blocks:
            return []
        counts = [codes * coded.pictures for codes in layout.places.codes]
        packed = coded.codes.to(self._device, non_blocking=True).split(
            [code_bytes(count, bits) for count, bits in zip(counts, LEVELS[1:], strict=True)]
        )
        levels = [
            unpack(piece, bits, count)
            for piece, bits, count in zip(packed, LEVELS[1:], counts, strict=True)
        ]
        return layout.places.values(levels, coded.pictures)

    def _stretches(self, coefficients: int) -> list[slice]:
        """Heads that are worked on in one go, so many coefficients in each channel."""
        heads, dim = self._constants.heads, self._constants.head_dim
        together = max(TOGETHER // (2 * self._parts * dim * max(coefficients, 1)), 1)
        return [slice(first, first + together) for first in range(0, heads, together)]


# An ordinary tensor even under inference mode: it is kept, and used outside of it too.
@lru_cache(maxsize=256)
@torch.inference_mode(False)
def _members(units: MapUnits, device: torch.device) -> Tensor:
    """(n, U) float32: 1 where a coefficient is of a unit."""
    unit = np.repeat(np.arange(len(units.sizes)), units.sizes)
    return torch.from_numpy(np.eye(len(units.sizes), dtype=np.float32)[unit]).to(device)


def _energy(
    values: Sequence[Tensor],
    blocks: Sequence[CodedBlock],
    weights: Tensor,
    units: MapUnits,
    pictures: int,
) -> Tensor:
    """(2, H, P, B): the mean square, in standard deviations, of a map's coefficients with bits."""
    kinds, heads, _, parts, _ = weights.shape
    energy = weights.new_zeros((kinds, heads, parts, pictures))
    for value, block in zip(values, blocks, strict=True):
        members = _members(units, value.device)[units.columns(block.units), block.units]
        weight = weights[block.kinds, :, block.least :, block.parts, block.units, None]
        by_unit = torch.tensordot(members, value.square(), dims=([0], [4]))
        found = by_unit.mul_(weight.movedim(4, 0)).sum((0, 3))
        energy[block.kinds, :, block.parts] += found
    return energy


def _of_block(gains: Tensor, block: CodedBlock) -> Tensor:
    """Gains (2, H, P, B) as (kinds, H, 1, P', 1, B)."""
    return gains[block.kinds, :, None, block.parts, None]
