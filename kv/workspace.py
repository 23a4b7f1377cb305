"""The one place where held and new tokens meet for an attention call. Knows shapes only."""

from __future__ import annotations

import torch
from torch import Tensor

from scalekv.kv.cache import LayerCache


class Workspace:
    """Two flat buffers, one for k and one for v, shared by all layers and scales.

    Attention kernels want contiguous (B, H, T, D) tensors; viewing the start of a shared buffer as
    such costs one buffer in all instead of a concatenation per layer.
    """

    def __init__(self) -> None:
        self._k = _Buffer()
        self._v = _Buffer()
        self.ahead = False

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the buffers occupy."""
        return self._k.nbytes + self._v.nbytes

    def release(self) -> None:
        """Frees the buffers."""
        self._k.release()
        self._v.release()

    def fetch(self, cache: LayerCache, k: Tensor, v: Tensor) -> None:
        pass

    def joined(self, cache: LayerCache, k: Tensor, v: Tensor) -> list[tuple[Tensor, Tensor]]:
        """For each group of heads the held tokens followed by the new ones, contiguous
        (B, h, T, D); the groups lie one behind the other.

        The results are overwritten by the next call. Where nothing is held in any head they are
        the new tokens themselves (or a contiguous copy of them).
        """
        groups, new = cache.groups, k.shape[2]
        if cache.all_together and not groups[0].tokens:
            return [(k.contiguous(), v.contiguous())]
        rows = [k.shape[0] * len(group.heads) * (group.tokens + new) for group in groups]
        flat_k, flat_v = self._k.rows(k, sum(rows)), self._v.rows(v, sum(rows))
        found = []
        for group, k_all, v_all in zip(groups, flat_k.split(rows), flat_v.split(rows), strict=True):
            held = group.tokens
            shape = (len(group.heads), held + new)
            k_all, v_all = (
                x.view(k.shape[0], *shape, k.shape[3])
                for x in (k_all, v_all)
            )
            if held:
                cache.copy_to(group, k_all[:, :, :held], v_all[:, :, :held])
            k_all[:, :, held:].copy_(cache.of(group, k))
            v_all[:, :, held:].copy_(cache.of(group, v))
            found.append((k_all, v_all))
        return found


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
