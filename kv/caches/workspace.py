"""The one place where held and new tokens meet for an attention call. Knows shapes only."""

from __future__ import annotations

import torch
from torch import Tensor

from scalekv.kv.caches.layer import Group, LayerCache


class Workspace:
    """Flat buffers for k and v, shared by all layers and scales.

    Attention kernels want contiguous (B, H, T, D) tensors; viewing the start of a shared buffer as
    such costs one buffer in all instead of a concatenation per layer.

    Attributes:
        ahead: the next layer's held tokens are brought over while a layer computes, into a second
            pair of buffers that takes turns with the first.
    """

    def __init__(self) -> None:
        self.ahead = False
        self._pairs = [(_Buffer(), _Buffer()), (_Buffer(), _Buffer())]
        self._fetched: LayerCache | None = None
        self._arrived: torch.cuda.Event | None = None
        self._side: torch.cuda.Stream | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the buffers occupy."""
        return sum(buffer.nbytes for pair in self._pairs for buffer in pair)

    def release(self) -> None:
        """Frees the buffers."""
        self._fetched = None
        for pair in self._pairs:
            for buffer in pair:
                buffer.release()

    def joined(self, cache: LayerCache, k: Tensor, v: Tensor) -> list[tuple[Tensor, Tensor]]:
        """For each group of heads the held tokens followed by the new ones, contiguous
        (B, h, T, D); the groups lie one behind the other.

        The results are overwritten by the next call. Where nothing is held in any head they are
        the new tokens themselves (or a contiguous copy of them).
        """
        if cache.all_together and not cache.groups[0].tokens:
            return [(k.contiguous(), v.contiguous())]
        brought = self._fetched is cache
        if brought:
            self._pairs.reverse()
            if self._arrived is not None:
                torch.cuda.current_stream(k.device).wait_event(self._arrived)
        self._fetched = None
        joined = self._views(cache, k, v)
        for group, (k_all, v_all) in zip(cache.groups, joined, strict=True):
            if group.tokens and not brought:
                _fill(cache, group, k_all, v_all)
            k_all[:, :, group.tokens :].copy_(cache.of(group, k))
            v_all[:, :, group.tokens :].copy_(cache.of(group, v))
        return joined

    def fetch(self, cache: LayerCache, k: Tensor, v: Tensor) -> None:
        """Begins to bring over what the next layer holds, if that is to be done `ahead`.

        k and v are (B, H, L, D) of this layer: the next one's new tokens will be like them.
        """
        if not self.ahead or not cache.tokens:
            return
        self._pairs.reverse()
        joined = self._views(cache, k, v)
        self._pairs.reverse()
        self._fetched, self._arrived = cache, None
        if not k.is_cuda:
            self._fill_all(cache, joined)
            return
        if self._side is None:
            self._side = torch.cuda.Stream(k.device)
        # The buffer's last reader, and whoever wrote what is held, came before on this stream.
        self._side.wait_stream(torch.cuda.current_stream(k.device))
        with torch.cuda.stream(self._side):
            self._fill_all(cache, joined)
            self._arrived = self._side.record_event()
        for pair in joined:
            for x in pair:
                x.record_stream(self._side)

    def _fill_all(self, cache: LayerCache, joined: list[tuple[Tensor, Tensor]]) -> None:
        for group, (k_all, v_all) in zip(cache.groups, joined, strict=True):
            if group.tokens:
                _fill(cache, group, k_all, v_all)

    def _views(self, cache: LayerCache, k: Tensor, v: Tensor) -> list[tuple[Tensor, Tensor]]:
        """The first pair of buffers as (B, h, T, D) tensors of each group."""
        batch, _, new, dim = k.shape
        shapes = [(batch, len(g.heads), g.tokens + new, dim) for g in cache.groups]
        rows = [batch * heads * tokens for _, heads, tokens, _ in shapes]
        flat = (
            buffer.rows(like, sum(rows)).split(rows)
            for buffer, like in zip(self._pairs[0], (k, v), strict=True)
        )
        return [
            (k_rows.view(shape), v_rows.view(shape))
            for shape, k_rows, v_rows in zip(shapes, *flat, strict=True)
        ]


def _fill(cache: LayerCache, group: Group, k_all: Tensor, v_all: Tensor) -> None:
    held = group.tokens
    cache.copy_to(group, k_all[:, :, :held], v_all[:, :, :held])


class _Buffer:
    def __init__(self) -> None:
        self._flat: Tensor | None = None

    @property
    def nbytes(self) -> int:
        return 0 if self._flat is None else self._flat.untyped_storage().nbytes()

    def release(self) -> None:
        self._flat = None

    def rows(self, like: Tensor, count: int) -> Tensor:
        """(count, D) at the buffer's start, grown first if too small or of another kind."""
        dim = like.shape[3]
        size = count * dim
        flat = self._flat
        kind = (like.dtype, like.device)
        if flat is None or flat.numel() < size or (flat.dtype, flat.device) != kind:
            self._flat = flat = None  # freed before the larger one is made
            # An ordinary tensor even under inference mode: a later call outside must write to it.
            with torch.inference_mode(False):
                self._flat = flat = torch.empty(size, dtype=like.dtype, device=like.device)
        return flat[:size].view(-1, dim)
