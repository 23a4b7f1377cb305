"""What one layer holds under a coded cache: tokens as they are while they fit, then codes. Knows
when a history is coded; nothing of policies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from torch import Tensor

from scalekv.kv.coded.allocation import Allocation
from scalekv.kv.coded.codec import CodedMaps, Values
from scalekv.kv.coded.units import Maps, MapUnits, groups_of

Place = Callable[[Tensor], Tensor]
"""A tensor to where what is held lies: a copy there, or the tensor itself."""


class Codec(Protocol):
    """Codes one layer's maps; see `scalekv.kv.coded.codec.LayerCodec`."""

    channels: int

    def bases(self) -> Tensor: ...

    def decode(
        self, coded: CodedMaps, turns: Tensor | None, k_out: Tensor, v_out: Tensor, basis: Tensor
    ) -> None: ...

    def changes(self, coded: CodedMaps, threshold: int) -> bool: ...

    def begun(self, old: CodedMaps | None, maps: Maps, threshold: int, pictures: int) -> Values: ...

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
    ) -> Tensor: ...

    def packed(
        self, values: Values, maps: Maps, gains: tuple[Tensor, ...], threshold: int
    ) -> CodedMaps: ...


class CodedHistory:
    """The maps of one layer as codes, each under the bits of the scale it is held for."""

    def __init__(self, codec: Codec, allocation: Allocation, place: Place) -> None:
        self._codec = codec
        self._allocation = allocation
        self._place = place
        self._groups = groups_of(allocation.schedule, codec.channels)
        self._held: list[CodedMaps] = []

    @property
    def nbytes(self) -> int:
        """Bytes of memory that codes and gains occupy, read off their storage."""
        tensors = (x for coded in self._held for x in (coded.codes, *coded.gains))
        return sum(x.untyped_storage().nbytes() for x in tensors)

    @property
    def maps(self) -> int:
        """How many are held, from the first on."""
        return sum(len(coded.maps) for coded in self._held)

    @property
    def tokens(self) -> int:
        """Of all of them, per sequence and head."""
        return self._allocation.schedule.before(self.maps)

    def copy_to(self, k_out: Tensor, v_out: Tensor, turns: Tensor | None) -> None:
        """Writes what is held into two (S, H, T, D) tensors; `turns` is (T, D / 2) complex."""
        basis = self._codec.bases()
        for coded in self._held:
            rows = self._rows(coded.maps)
            here = None if turns is None else turns[rows]
            self._codec.decode(coded, here, k_out[:, :, rows], v_out[:, :, rows], basis)

    def hold(self, scale: int, k: Tensor, v: Tensor, turns: Tensor | None) -> None:
        """Holds the history that `scale` attends to: k and v are (S, H, T, D) of all its tokens.

        Maps held already are not coded again from k and v: their codes are made coarser.
        """
        threshold, basis = self._allocation.thresholds[scale], self._codec.bases()
        for number, group in enumerate(self._groups):
            maps = tuple(units for units in group if units.number < scale)
            if not maps:
                return
            old = self._held[number] if number < len(self._held) else None
            if old is not None and old.maps == maps and not self._codec.changes(old, threshold):
                self._held[number] = replace(old, threshold=threshold)
                continue
            pictures = self._allocation.pictures
            values = self._codec.begun(old, maps, threshold, pictures)
            gains: list[Tensor] = []
            if old is not None:
                gains += old.gains
                del old
                self._forget(number)
            for units in maps[len(gains) :]:
                rows = self._rows((units,))
                here = None if turns is None else turns[rows]
                of_map = (k[:, :, rows], v[:, :, rows], here, units)
                gain = self._codec.encode(values, *of_map, maps, threshold, basis)
                gains.append(self._place(gain))
            self._hold(number, self._codec.packed(values, maps, tuple(gains), threshold))

    def _forget(self, number: int) -> None:
        """Lets codes go before new ones come, so that never both are held."""
        old = self._held[number]
        self._held[number] = replace(old, codes=old.codes.new_empty(0))

    def _hold(self, number: int, coded: CodedMaps) -> None:
        placed = replace(coded, codes=self._place(coded.codes))
        if number < len(self._held):
            self._held[number] = placed
        else:
            self._held.append(placed)

    def _rows(self, maps: Maps) -> slice:
        schedule = self._allocation.schedule
        return slice(schedule.before(maps[0].number), schedule.before(maps[-1].number + 1))
