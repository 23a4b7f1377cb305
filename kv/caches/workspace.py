"""The one place where held and new tokens meet for an attention call. Knows shapes only."""

from __future__ import annotations

import torch
from torch import Tensor

from scalekv.kv.caches.held import Like
from scalekv.kv.caches.layer import LayerCache
from scalekv.kv.caches.layout import by_token, empty


class Workspace:
    """A flat buffer for k and v, shared by all layers and scales.

    Attention kernels want k and v each in one tensor; viewing the start of a shared buffer as such
    costs one buffer in all instead of a concatenation per layer.

    Attributes:
        ahead: the next layer's held tokens are brought over while a layer computes, into a second
            buffer that takes turns with the first.
    """

    def __init__(self) -> None:
        self.ahead = False
        self._buffers = [_Buffer(), _Buffer()]
        self._fetched: LayerCache | None = None
        self._arrived: torch.cuda.Event | None = None
        self._side: torch.cuda.Stream | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the buffers occupy."""
        return sum(buffer.nbytes for buffer in self._buffers)

    def release(self) -> None:
        """Frees the buffers."""
        self._fetched = None
        for buffer in self._buffers:
            buffer.release()

    def joined(self, cache: LayerCache, like: Like) -> list[Tensor]:
        """For each group of heads (2, B, h, T, D): k and v of the held tokens, and behind them room
        for new ones like (B, H, L, D); the groups lie one behind the other, k of all before v.

        The results are overwritten by the next call. Where nothing is held there is nothing to
        join: they are memory of their own.
        """
        if cache.all_together and not cache.tokens:
            kind = {"dtype": like.dtype, "device": like.device}
            return [empty((2, *like.shape), by_token=by_token(like.device), **kind)]
        brought = self._fetched is cache
        if brought:
            self._buffers.reverse()
            if self._arrived is not None:
                torch.cuda.current_stream(like.device).wait_event(self._arrived)
        self._fetched = None
        joined = self._views(cache, like)
        if not brought:
            _fill(cache, joined)
        return joined

    def fetch(self, cache: LayerCache, like: Like) -> None:
        """Begins to bring over what the next layer holds, if that is to be done `ahead`.

        The next layer's new tokens will be like (B, H, L, D), as this one's.
        """
        if not self.ahead or not cache.tokens:
            return
        self._buffers.reverse()
        joined = self._views(cache, like)
        self._buffers.reverse()
        self._fetched, self._arrived = cache, None
        if like.device.type != "cuda":
            _fill(cache, joined)
            return
        if self._side is None:
            self._side = torch.cuda.Stream(like.device)
        # The buffer's last reader, and whoever wrote what is held, came before on this stream.
        self._side.wait_stream(torch.cuda.current_stream(like.device))
        with torch.cuda.stream(self._side):
            _fill(cache, joined)
            self._arrived = self._side.record_event()
        for x in joined:
            x.record_stream(self._side)

    def _views(self, cache: LayerCache, like: Like) -> list[Tensor]:
        """The first buffer as a (2, B, h, T, D) tensor for each group."""
        batch, _, new, dim = like.shape
        shapes = [(batch, len(group.heads), group.tokens + new) for group in cache.groups]
        rows = [batch * heads * tokens for _, heads, tokens in shapes]
        parts = self._buffers[0].rows(like, sum(rows)).split(rows, dim=1)
        if by_token(like.device) and cache.all_together:
            [(_, heads, tokens)] = shapes
            return [parts[0].view(2, batch, tokens, heads, dim).transpose(2, 3)]
        return [part.unflatten(1, shape) for part, shape in zip(parts, shapes, strict=True)]


def _fill(cache: LayerCache, joined: list[Tensor]) -> None:
    """Copies what a layer holds to the front of each group's view."""
    for group, kv in zip(cache.groups, joined, strict=True):
        if group.tokens:
            cache.copy_to(group, kv[:, :, :, : group.tokens])


class _Buffer:
    def __init__(self) -> None:
        self._flat: Tensor | None = None

    @property
    def nbytes(self) -> int:
        return 0 if self._flat is None else self._flat.untyped_storage().nbytes()

    def release(self) -> None:
        self._flat = None

    def rows(self, like: Like, count: int) -> Tensor:
        """(2, count, D) at the buffer's start, grown first if too small or of another kind."""
        dim = like.shape[3]
        size = 2 * count * dim
        flat = self._flat
        kind = (like.dtype, like.device)
        if flat is None or flat.numel() < size or (flat.dtype, flat.device) != kind:
            self._flat = flat = None  # freed before the larger one is made
            # An ordinary tensor even under inference mode: a later call outside must write to it.
            with torch.inference_mode(False):
                self._flat = flat = torch.empty(size, dtype=like.dtype, device=like.device)
        return flat[:size].view(2, count, dim)
