"""Tables of a layer that are kept for the next picture. Knows how large they are; nothing of what
they say."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from typing import Generic, Protocol, TypeVar

from scalekv.kv.coded.levels import KEPT
from scalekv.kv.coded.units import Maps


class Sized(Protocol):
    """What says how large it is."""

    @property
    def nbytes(self) -> int:
        """Of its tensors."""
        ...


Table = TypeVar("Table", bound=Sized)


class KeptTables(ABC, Generic[Table]):
    """Of some maps in a row under one threshold after another; those used last are kept, so that
    what is recorded on a device finds them there."""

    def __init__(self, layers: int) -> None:
        """`layers` of the model, which share `KEPT`."""
        self._kept: OrderedDict[tuple[Maps, int], Table] = OrderedDict()
        self._room = KEPT // layers

    @property
    def nbytes(self) -> int:
        """Of all that are kept."""
        return sum(table.nbytes for table in self._kept.values())

    def of(self, maps: Maps, threshold: int) -> Table:
        """Of some maps in a row."""
        key = (maps, threshold)
        known = self._kept.get(key)
        if known is not None:
            self._kept.move_to_end(key)
            return known
        self._kept[key] = known = self._made(maps, threshold)
        self._room -= known.nbytes
        while self._room < 0:
            self._room += self._kept.popitem(last=False)[1].nbytes
        return known

    @abstractmethod
    def _made(self, maps: Maps, threshold: int) -> Table:
        """A new one."""
