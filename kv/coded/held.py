"""A coded cache as caches hold it: one store for all layers of a picture, each layer's history raw
while it fits, then coded. Knows formats; nothing of policies."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, lru_cache, partial
from typing import Any

import torch
from torch import Tensor

from scalekv.kv.caches.held import Empty, Held, Like, Part, Plain
from scalekv.kv.coded.allocation import Allocation, without_halves
from scalekv.kv.coded.codec import LayerCodec
from scalekv.kv.coded.constants import ALONE, GUIDED, Constants
from scalekv.kv.coded.fused.codec import FusedCodec
from scalekv.kv.coded.history import Codec, CodedHistory


class CodedStorage:
    """How the layers of a model hold a picture, or batch, under an allocation of bits.

    Attributes:
        alone: the same once the unconditional halves are gone: half the sequences in half the
            bytes, under constants of their own.
    """

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
        self._turns: list[Tensor] = []  # of all tokens so far; shared with `alone`
        self.device, self.place = device, place
        pinned = place.type == "cpu" and device.type != "cpu"
        self.empty: Empty = partial(torch.empty, device=place, pin_memory=pinned)
        self._dtype = dtype

    def turned(self, turns: Callable[[], Tensor] | None) -> None:
        """See `Storage`."""
        if turns is not None:
            self._turns[:] = [torch.cat((*self._turns, turns()))]

    @property
    def turns(self) -> Tensor | None:
        """(T, D / 2) complex of all tokens so far; None: keys are not turned."""
        return self._turns[0] if self._turns else None

    @cached_property
    def alone(self) -> CodedStorage:
        """See `CodedStorage`."""
        allocation = without_halves(self.constants, self.allocation)
        fewer = CodedStorage(self.constants, allocation, self._dtype, self.device, self.place)
        fewer._turns = self._turns
        return fewer

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
        self._storage, self._layer, self._dtype = storage, layer, dtype
        self._shape = shape
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

    def first(self, sequences: int) -> CodedHeld:
        """See `Held`: the conditional halves, under constants of their own."""
        allocation = self._storage.allocation
        assert allocation.guided, "halves are dropped, nothing else"
        assert sequences == allocation.pictures, (sequences, allocation.pictures)
        alone = self._storage.alone
        fewer = CodedHeld(alone, self._layer, (sequences, *self._shape[1:]), self._dtype)
        if self._raw is not None:
            fewer._raw = self._raw.first(sequences)
            return fewer
        fewer._raw = None
        maps, tokens = self._history.maps, self._history.tokens
        batch, heads, _, dim = self._shape
        kv = torch.empty(
            (2, batch, heads, tokens, dim), dtype=self._dtype, device=self._storage.device
        )
        self._history.copy_to(kv[0], kv[1], self._storage.turns)
        fewer._history.hold(maps, kv[0, :sequences], kv[1, :sequences], alone.turns)
        return fewer

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


def by_kernels(device: torch.device) -> bool:
    """Whether kernels code and decode on a device."""
    return device.type == "cuda"


@lru_cache(maxsize=256)
def codec_of(constants: Constants, layer: int, guided: bool, device: torch.device) -> Codec:
    """The codec of a layer, the same one for all pictures that use the constants."""
    kind = FusedCodec if by_kernels(device) else LayerCodec
    return kind(constants, layer, GUIDED if guided else ALONE, device)
