"""Tokens in whole numbers where nothing is dropped: keys turned back by their rotary angle,
guidance halves as middle and side, in as many bytes as without. Knows formats; nothing of policies.

What guidance extrapolates is the side, which is small, and so are its steps.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from scalekv.kv.caches.held import Empty, Held, Like, Part, Quantised
from scalekv.kv.halves import both_halves, middle_and_side, turned
from scalekv.kv.precision import Precision
from scalekv.kv.to_device import counting_up, whole_numbers


class HalvesStorage:
    """How all layers store one picture, or batch; see `scalekv.kv.caches.storage`."""

    by_source = True

    def __init__(self, precision: Precision, scales: int, guided: bool, on_host: bool) -> None:
        """`guided`: whether sequences are pairs of guidance halves, conditional ones first."""
        self.on_host = on_host
        self._precision, self._scales = precision, scales
        self._parts = 2 if guided else 1
        self._turns: list[Tensor] = []

    def turned(self, turns: Callable[[], Tensor] | None) -> None:
        """See `Storage`."""
        if turns is not None:
            self._turns[:] = [torch.cat((*self._turns, turns()))]

    def of_layer(self, layer: int) -> HalvesStorage:
        """See `Storage`; all layers alike."""
        return self

    def to_dict(self) -> dict[str, Any]:
        """See `Storage`; the precision says it all."""
        return {}

    def reads_in_place(self, like: Like) -> bool:
        """See `LayerStorage`: tokens do not stay as they are."""
        return False

    def make(self, like: Like, heads: int, room: int) -> Held:
        """See `LayerStorage`."""
        device = torch.device("cpu") if self.on_host else like.device
        empty = partial(torch.empty, device=device, pin_memory=self.on_host)
        shape = (like.shape[0], heads, room, like.shape[3])
        # Ordinary tensors even under inference mode: a later call outside must write to them.
        with torch.inference_mode(False):
            return Halves(
                empty, shape, self._precision.bits, self._scales, self._parts, self._turns
            )


class Halves(Quantised):
    """Tokens as whole numbers of signals that vary less than keys and values do."""

    def __init__(
        self,
        empty: Empty,
        shape: tuple[int, int, int, int],
        bits: int,
        scales: int,
        parts: int,
        turns: list[Tensor],
    ) -> None:
        """`parts`: 2 for pairs of guidance halves; `turns`: (T, D / 2) complex of all tokens
        so far, or nothing, kept up by the storage."""
        super().__init__(empty, shape, bits, scales)
        self._parts, self._turns = parts, turns
        self._ends: list[int] = []  # of the maps held

    def write(self, first: int, part: Part, source: Held | None) -> None:
        """See `Held`."""
        assert part.slots is None, "nothing is dropped"
        del self._ends[part.scale :]
        self._ends.append(part.tokens)
        super().write(first, part, source)

    def first(self, sequences: int) -> Halves:
        """See `Held`: the conditional halves, coded anew from what is held of both."""
        _, batch, heads, tokens, dim = shape = (2, *self._k.shape[:2], self._ends[-1], self._dim)
        assert self._parts == 2, "halves are dropped, nothing else"
        assert 2 * sequences == batch, (sequences, batch)
        device = self._turns[0].device if self._turns else self._k.device
        kv = torch.empty(shape, device=device)
        ends = whole_numbers(tuple(self._ends), device)
        sources = torch.bucketize(counting_up(tokens, device), ends, right=True)
        self.copy_to(kv, sources.view(1, 1, -1))
        with torch.inference_mode(False):
            room = (sequences, heads, self.room, dim)
            fewer = Halves(self._empty, room, self._bits, self._scales, 1, self._turns)
        start = 0
        for scale, end in enumerate(self._ends):
            part = Part(kv[:, :sequences, :, :end], start, scale, None, None)
            fewer.write(0, part, fewer)
            start = end
        return fewer

    def _signals(self, k: Tensor, v: Tensor, start: int) -> tuple[Tensor, Tensor]:
        """See `Quantised`."""
        keys = k.float()
        if self._turns:
            keys = turned(keys, self._turns[0][start : start + k.shape[2]].conj())
        return self._mixed(keys), self._mixed(v.float())

    def _tokens_of(self, k: Tensor, v: Tensor, start: int) -> tuple[Tensor, Tensor]:
        """See `Quantised`."""
        keys, values = self._parted(k), self._parted(v)
        if self._turns:
            keys = turned(keys, self._turns[0][start : start + k.shape[2]])
        return keys, values

    def _mixed(self, x: Tensor) -> Tensor:
        if self._parts == 1:
            return x
        c, u = x.chunk(2)
        return middle_and_side(c, u, dim=0).flatten(0, 1)

    def _parted(self, x: Tensor) -> Tensor:
        if self._parts == 1:
            return x
        middle, side = x.chunk(2)
        return both_halves(middle, side, dim=0).flatten(0, 1)
