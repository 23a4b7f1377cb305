"""Tokens that some heads of a layer hold, as many in each: how they lie in memory. Knows formats;
nothing of policies, budgets or what a scale is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from scalekv.kv.caches import layout
from scalekv.kv.caches.layout import by_token
from scalekv.kv.caches.quantise import quantise, restore
from scalekv.kv.dtypes import TORCH_DTYPES
from scalekv.kv.kernels.gather import gather_tokens, pick, picked
from scalekv.kv.precision import Precision


class Like(Protocol):
    """What is to be known of keys (B, H, L, D) before there are any; a tensor knows it too."""

    @property
    def shape(self) -> Sequence[int]: ...
    @property
    def dtype(self) -> torch.dtype: ...
    @property
    def device(self) -> torch.device: ...


_CHUNK = 512  # tokens turned back from codes at a time, which bounds the float32 copy
Empty = Callable[..., Tensor]
"""`torch.empty` with the place settled."""


@dataclass(frozen=True)
class HeldFormat:
    """How a picture's held tokens are stored, in every layer; see `scalekv.kv.caches.storage`.

    Attributes:
        precision: of the elements.
        scales: how many scales of the schedule can be held.
        on_host: in the host's pinned memory, instead of where attention computes.
    """

    precision: Precision
    scales: int
    on_host: bool = False

    @property
    def by_source(self) -> bool:
        """See `LayerStorage`."""
        return self.precision.quantised

    def turned(self, turns: Callable[[], Tensor] | None) -> None:
        """See `Storage`."""

    def of_layer(self, layer: int) -> HeldFormat:
        """See `Storage`; all layers alike."""
        return self

    def to_dict(self) -> dict[str, Any]:
        """See `Storage`; the precision says it all."""
        return {}

    def reads_in_place(self, like: Like) -> bool:
        """Whether attention may read held tokens where they lie: keys are like (B, H, L, D)."""
        return not self.on_host and TORCH_DTYPES.get(self.precision.name) == like.dtype

    def make(self, like: Like, heads: int, room: int) -> Held:
        """Room for `room` tokens in each of `heads` heads; `like` is (B, H, L, D) keys."""
        device = torch.device("cpu") if self.on_host else like.device
        empty = partial(torch.empty, device=device, pin_memory=self.on_host)
        batch, all_heads, _, dim = like.shape
        # Ordinary tensors even under inference mode: a later call outside must write to them.
        with torch.inference_mode(False):
            if self.precision.quantised:
                return Quantised(empty, (batch, heads, room, dim), self.precision.bits, self.scales)
            # as they lie in the workspace
            tokens_together = by_token(like.device) and heads == all_heads
            empty = partial(layout.empty, by_token=tokens_together, **empty.keywords)
            return Plain(empty, (batch, heads, room, dim), TORCH_DTYPES[self.precision.name])


@dataclass(frozen=True)
class Part:
    """What some heads keep, on its way into a `Held`.

    Attributes:
        kv: (2, B, h, T, D), k and v: the tokens held so far followed by the new ones, as attention
            read them.
        old: how many of the T were held.
        scale: the scale that the new tokens are from.
        slots: (B, h, n) int64 ascending, which of the T to keep; None: all.
        rows: (h,) int64 the heads' places where the old ones are held; None: all of it.
        there: whether all T lie already where they are held.
    """

    kv: Tensor
    old: int
    scale: int
    slots: Tensor | None
    rows: Tensor | None
    there: bool = False

    @property
    def tokens(self) -> int:
        """Tokens per head that are kept."""
        return self.kv.shape[3] if self.slots is None else self.slots.shape[2]


class Held(Protocol):
    """Room for k and v of `room` tokens in each of some heads."""

    room: int

    @property
    def nbytes(self) -> int:
        """Bytes of memory occupied, read off the storage."""
        ...

    def copy_to(self, out: Tensor, sources: Tensor) -> None:
        """Writes the first n tokens' k and v into (2, B, h, n, D).

        `sources` is the scale each token is from, (B, h, n) or (1, 1, n) int64.
        """
        ...

    def first(self, sequences: int) -> Held:
        """A copy of the first sequences alone."""
        ...

    def write(self, first: int, part: Part, source: Held | None) -> None:
        """Takes a part into the heads from `first` on.

        `source` is where the part's old tokens are held. It may be this very object: then nothing
        is written that is there already. None: nowhere any more, the part's tensors have them.
        """
        ...


class Plain:
    """Tokens as they are, or cast to another floating dtype."""

    def __init__(self, empty: Empty, shape: tuple[int, int, int, int], dtype: torch.dtype) -> None:
        """`shape` is (B, h, room, D)."""
        self._empty = empty
        self.room = shape[2]
        self._kv = empty((2, *shape), dtype=dtype)

    @property
    def nbytes(self) -> int:
        """See `Held`."""
        return storage_bytes(self._kv)

    def up_to(self, tokens: int) -> Tensor:
        """(2, B, h, tokens, D): where the first so many tokens lie, or are to lie."""
        return self._kv[:, :, :, :tokens]

    def copy_to(self, out: Tensor, sources: Tensor) -> None:
        """See `Held`."""
        out.copy_(self.up_to(out.shape[3]), non_blocking=True)

    def write(self, first: int, part: Part, source: Held | None) -> None:
        """See `Held`."""
        if part.there and part.slots is None:
            assert source is self, "attention read them where they were held"
            return
        start = part.old if source is self and part.slots is None else 0
        into = self._kv[:, :, first : first + part.kv.shape[2], start : part.tokens]
        if part.slots is None:
            into.copy_(part.kv[:, :, :, start:], non_blocking=True)
        elif part.there or into.device != part.kv.device:
            for x, out in zip(part.kv, into, strict=True):
                out.copy_(picked(x, part.slots), non_blocking=True)
        else:
            gather_tokens(part.kv, part.slots, into)

    def first(self, sequences: int) -> Plain:
        """See `Held`."""
        shape = (sequences, *self._kv.shape[2:])
        with torch.inference_mode(False):
            fewer = Plain(self._empty, shape, self._kv.dtype)
        fewer._kv.copy_(self._kv[:, :sequences], non_blocking=True)
        return fewer


class Quantised:
    """Tokens as whole numbers, quantised once, when they come in: k per channel over the map that
    it came with, v per token (the axes on which each varies least, arXiv 2402.02750)."""

    def __init__(
        self, empty: Empty, shape: tuple[int, int, int, int], bits: int, scales: int
    ) -> None:
        """`shape` is (B, h, room, D); tokens may come from as many as `scales` maps."""
        self._empty, self._scales = empty, scales
        batch, heads, self.room, dim = shape
        self._bits, self._dim = bits, dim
        codes, half = (*shape[:3], dim * bits // 8), torch.float16
        self._k, self._v = (empty(codes, dtype=torch.uint8) for _ in range(2))
        self._v_scale, self._v_zero = (empty((*shape[:3], 1), dtype=half) for _ in range(2))
        self._k_scale, self._k_zero = (
            empty((batch, heads, scales, dim), dtype=half).zero_() for _ in range(2)
        )

    @property
    def nbytes(self) -> int:
        """See `Held`."""
        return storage_bytes(*self._tokens, *self._channels)

    def copy_to(self, out: Tensor, sources: Tensor) -> None:
        """See `Held`."""
        k_out, v_out = out
        device = out.device  # codes move, not what they stand for
        sources = sources.expand(*self._k.shape[:2], -1)
        k_scale, k_zero = (x.to(device, non_blocking=True) for x in (self._k_scale, self._k_zero))
        for start in range(0, k_out.shape[2], _CHUNK):
            span = slice(start, min(start + _CHUNK, k_out.shape[2]))
            k, v, v_scale, v_zero = (
                x[:, :, span].to(device, non_blocking=True)
                for x in (self._k, self._v, self._v_scale, self._v_zero)
            )
            scale, zero = (picked(x, sources[..., span]) for x in (k_scale, k_zero))
            k, v = restore(k, self._bits, scale, zero), restore(v, self._bits, v_scale, v_zero)
            k_out[:, :, span], v_out[:, :, span] = self._tokens_of(k, v, start)

    def write(self, first: int, part: Part, source: Held | None) -> None:
        """See `Held`."""
        assert source is None or isinstance(source, Quantised), type(source)
        heads = slice(first, first + part.kv.shape[2])
        k, v = part.kv[:, :, :, part.old :]
        k, v = self._signals(k, v, part.old)
        k_codes, (k_scale, k_zero) = quantise(k, self._bits, dim=2)
        v_codes, (v_scale, v_zero) = quantise(v, self._bits, dim=3)
        for mine, theirs, new in zip(
            self._channels,
            source._channels if source else (None, None),
            (k_scale, k_zero),
            strict=True,
        ):
            if theirs is not None and theirs is not mine:
                mine[:, heads].copy_(_of(theirs, part.rows))
            mine[:, heads, part.scale].copy_(new.squeeze(2))
        for mine, theirs, new in zip(
            self._tokens,
            source._tokens if source else (None,) * 4,
            (k_codes, v_codes, v_scale, v_zero),
            strict=True,
        ):
            if theirs is mine and part.slots is None:
                mine[:, heads, part.old : part.tokens].copy_(new)
                continue
            together = new
            if theirs is not None:
                old = _of(theirs, part.rows)[:, :, : part.old].to(new.device, non_blocking=True)
                together = torch.cat((old, new), dim=2)
            into = mine[:, heads, : part.tokens]
            if part.slots is None:
                into.copy_(together, non_blocking=True)
            else:
                pick(together, part.slots, into)

    def first(self, sequences: int) -> Quantised:
        """See `Held`."""
        shape = (sequences, self._k.shape[1], self.room, self._dim)
        with torch.inference_mode(False):
            fewer = Quantised(self._empty, shape, self._bits, self._scales)
        mine, theirs = (*self._tokens, *self._channels), (*fewer._tokens, *fewer._channels)
        for x, out in zip(mine, theirs, strict=True):
            out.copy_(x[:sequences], non_blocking=True)
        return fewer

    def _signals(self, k: Tensor, v: Tensor, start: int) -> tuple[Tensor, Tensor]:
        """What is quantised of k and v (B, h, n, D), tokens from `start` on: they themselves."""
        return k, v

    def _tokens_of(self, k: Tensor, v: Tensor, start: int) -> tuple[Tensor, Tensor]:
        """The inverse of `_signals`."""
        return k, v

    @property
    def _channels(self) -> tuple[Tensor, Tensor]:
        return self._k_scale, self._k_zero

    @property
    def _tokens(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self._k, self._v, self._v_scale, self._v_zero


def _of(x: Tensor, rows: Tensor | None) -> Tensor:
    return x if rows is None else x.index_select(1, rows.to(x.device))


def storage_bytes(*tensors: Tensor | None) -> int:
    """Bytes of memory that tensors occupy, with whatever else is in their storages."""
    return sum(0 if x is None else x.untyped_storage().nbytes() for x in tensors)
