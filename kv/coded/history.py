"""What one layer holds under a coded cache: tokens as they are while they fit, then codes. Knows
when a history is coded; nothing of policies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from scalekv.kv.coded.allocation import Allocation
from scalekv.kv.coded.codec import CodedMap, LayerCodec
from scalekv.kv.coded.units import MapUnits, units_of

Place = Callable[[Tensor], Tensor]
"""A tensor to where what is held lies: a copy there, or the tensor itself."""


class CodedHistory:
    """The maps of one layer as codes, each under the bits of the scale it is held for."""

    def __init__(self, codec: LayerCodec, allocation: Allocation, place: Place) -> None:
        self._codec = codec
        self._allocation = allocation
        self._place = place
        self._units = units_of(allocation.schedule)
        self._maps: list[CodedMap] = []

    @property
    def nbytes(self) -> int:
        """Bytes of memory that codes and gains occupy, read off their storage."""
        tensors = (x for coded in self._maps for x in (coded.codes, coded.gains))
        return sum(x.untyped_storage().nbytes() for x in tensors)

    def copy_to(self, k_out: Tensor, v_out: Tensor, turns: Tensor | None) -> None:
        """Writes what is held into two (S, H, T, D) tensors; `turns` is (T, D / 2) complex."""
        for units, coded in zip(self._units, self._maps, strict=False):
            rows = self._rows(units.number)
            self._codec.decode(
                coded,
                units,
                None if turns is None else turns[rows],
                k_out[:, :, rows],
                v_out[:, :, rows],
            )

    def hold(self, scale: int, k: Tensor, v: Tensor, turns: Tensor | None) -> None:
        """Holds the history that `scale` attends to: k and v are (S, H, T, D) of all its tokens.

        Maps held already are not coded again from k and v: their codes are made coarser.
        """
        threshold = self._allocation.thresholds[scale]
        for units in self._units[:scale]:
            if units.number < len(self._maps):
                self._coarsen(units, threshold)
                continue
            rows = self._rows(units.number)
            here = None if turns is None else turns[rows]
            coded = self._codec.encode(k[:, :, rows], v[:, :, rows], here, units, threshold)
            self._maps.append(self._placed(coded))

    def _coarsen(self, units: MapUnits, threshold: int) -> None:
        coded = self._maps[units.number]
        coarser = self._codec.coarser(coded, units, threshold)
        if coarser is not None:  # the old codes go before the new ones come
            self._maps[units.number] = replace(coded, codes=coded.codes.new_empty(0))
            del coded
            self._maps[units.number] = self._placed(self._codec.packed(coarser, units))
        else:
            self._maps[units.number] = replace(coded, threshold=threshold)

    def _rows(self, number: int) -> slice:
        schedule = self._allocation.schedule
        return slice(schedule.before(number), schedule.before(number + 1))

    def _placed(self, coded: CodedMap) -> CodedMap:
        return replace(coded, codes=self._place(coded.codes), gains=self._place(coded.gains))
