"""A coded cache as caches hold it: one store for all layers of a picture, each layer's history raw
while it fits, then coded. Knows formats; nothing of policies."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from scalekv.kv.caches.held import Empty, Held, Like, Part, Plain
from scalekv.kv.coded.allocation import Allocation
from scalekv.kv.coded.codec import codec_of
from scalekv.kv.coded.constants import Constants
from scalekv.kv.coded.history import CodedHistory


class CodedStorage:
    """How the layers of a model hold a picture, or batch, under an allocation of bits.

    Attributes:
        turns: (T, D / 2) complex of all tokens so far; None: keys are not turned.
    """

    needs_turns = True

    def __init__(
        self,
        constants: Constants,
        allocation: Allocation,
        dtype: torch.dtype,
        device: torch.device,
        place: torch.device,
    ) -> None:
        """`dtype` and `device` are those attention computes in; codes are held at `place`."""
        self.constants = constants
        self.allocation = allocation
        self.turns: Tensor | None = None
        self.device, self.place = device, place
        pinned = place.type == "cpu" and device.type != "cpu"
        self.empty: Empty = partial(torch.empty, device=place, pin_memory=pinned)
        self._dtype = dtype

    def turned(self, turns: Tensor | None) -> None:
        """Told how the keys of the newest map were turned, (L, D / 2) complex, scale by scale."""
        if turns is None:
            return
        self.turns = turns if self.turns is None else torch.cat((self.turns, turns))

    def of_layer(self, layer: int) -> _LayerStorage:
        """What makes the layer's place to hold tokens in."""
        return _LayerStorage(self, layer, self._dtype)

    def to_dict(self) -> dict[str, Any]:
        """What a ledger says of it, as JSON values."""
        allocation = self.allocation
        return {
            "budget_bytes": allocation.budget_bytes,
            "first_coded_scale": allocation.first + 1
            if allocation.first < len(allocation.schedule)
            else None,
            "guided": allocation.guided,
            "constants_bytes": self.constants.nbytes,
            "constants_sha256": self.constants.sha256,
        }


class _LayerStorage:
    """Makes `CodedHeld` for one layer."""

    by_source = False

    @property
    def on_host(self) -> bool:
        """See `LayerStorage`."""
        return self._storage.place != self._storage.device

    def reads_in_place(self, like: Like) -> bool:
        """See `LayerStorage`: tokens do not stay as they are."""
        return False

    def __init__(self, storage: CodedStorage, layer: int, dtype: torch.dtype) -> None:
        self._storage, self._layer, self._dtype = storage, layer, dtype

    def make(self, like: Like, heads: int, room: int) -> CodedHeld:
        """See `LayerStorage`; every head of the layer is in it."""
        batch, _, _, dim = like.shape
        assert heads == self._storage.constants.heads, "heads are coded together"
        return CodedHeld(self._storage, self._layer, (batch, heads, room, dim), self._dtype)


class CodedHeld:
    """All heads of one layer."""

    def __init__(
        self,
        storage: CodedStorage,
        layer: int,
        shape: tuple[int, int, int, int],
        dtype: torch.dtype,
    ) -> None:
        """`shape` is (B, H, room, D)."""
        batch, heads, self.room, dim = shape
        allocation = storage.allocation
        self._storage = storage
        self._raw: Plain | None = None
        if allocation.raw_tokens:
            raw = (batch, heads, allocation.raw_tokens, dim)
            self._raw = Plain(storage.empty, raw, dtype)
        codec = codec_of(storage.constants, layer, allocation.guided, storage.device)
        self._history = CodedHistory(codec, allocation, self._placed)

    @property
    def nbytes(self) -> int:
        """See `Held`."""
        return self._history.nbytes + (0 if self._raw is None else self._raw.nbytes)

    def copy_to(self, out: Tensor, sources: Tensor) -> None:
        """See `Held`."""
        if self._raw is not None:
            self._raw.copy_to(out, sources)
        else:
            self._history.copy_to(out[0], out[1], self._storage.turns)

    def write(self, first: int, part: Part, source: Held | None) -> None:
        """See `Held`."""
        assert first == 0, first
        assert part.slots is None, "nothing is dropped"
        following = part.scale + 1
        if following < self._storage.allocation.first:
            assert self._raw is not None
            held: object = self
            self._raw.write(0, part, self._raw if source is held else None)
            return
        self._raw = None
        self._history.hold(following, part.kv[0], part.kv[1], self._storage.turns)

    def _placed(self, x: Tensor) -> Tensor:
        if x.device == self._storage.place:
            return x
        return self._storage.empty(x.shape, dtype=x.dtype).copy_(x, non_blocking=True)
