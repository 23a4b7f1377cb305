"""The one place where held and new tokens meet for an attention call. Knows shapes only."""

from __future__ import annotations

import torch
from torch import Tensor

from scalekv.kv.cache import LayerCache


class Workspace:
    """Two flat buffers, one for k and one for v, shared by all layers and scales.

    Attention kernels want one contiguous (B, H, T, D) tensor of each; viewing the start of a
    shared buffer as such costs one buffer in all instead of a concatenation per layer.
    """

    def __init__(self) -> None:
        self._k = _Buffer()
        self._v = _Buffer()

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the buffers occupy."""
        return self._k.nbytes + self._v.nbytes

    def release(self) -> None:
        """Frees the buffers."""
        self._k.release()
        self._v.release()

    def joined(self, cache: LayerCache, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Held tokens followed by the new ones, contiguous (B, H, T, D).

        The result is overwritten by the next call. Where nothing is held it is the new tokens
        themselves (or a contiguous copy of them).
        """
        held = cache.tokens
        if held == 0:
            return k.contiguous(), v.contiguous()
        k_all = self._k.view(k, held + k.shape[2])
        v_all = self._v.view(v, held + v.shape[2])
        cache.copy_to(k_all[:, :, :held], v_all[:, :, :held])
        k_all[:, :, held:].copy_(k)
        v_all[:, :, held:].copy_(v)
        return k_all, v_all


class _Buffer:
    def __init__(self) -> None:
        self._flat: Tensor | None = None

    @property
    def nbytes(self) -> int:
        return 0 if self._flat is None else self._flat.untyped_storage().nbytes()

    def release(self) -> None:
        self._flat = None

    def view(self, like: Tensor, tokens: int) -> Tensor:
        """(B, H, tokens, D) at the buffer's start, grown first if too small or of another kind."""
        batch, heads, _, dim = like.shape
        size = batch * heads * tokens * dim
        flat = self._flat
        if (
            flat is None
            or flat.numel() < size
            or (flat.dtype, flat.device)
            != (
                like.dtype,
                like.device,
            )
        ):
            self._flat = flat = None  # freed before the larger one is made
            # An ordinary tensor even under inference mode: a later call outside must write to it.
            with torch.inference_mode(False):
                self._flat = flat = torch.empty(size, dtype=like.dtype, device=like.device)
        return flat[:size].view(batch, heads, tokens, dim)
