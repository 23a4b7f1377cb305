"""One layer's held keys and values. The only owner of k and v; knows no scale, budget or policy,
but has a place for the notes of one, so that they live exactly as long as what they are about."""

from __future__ import annotations

import torch
from torch import Tensor


class LayerCache:
    """Keys and values one layer holds between scales, with the position of each token.

    `notes` is a policy's own: tensors about the held tokens by name, forgotten with them.

    How they are stored is this class's own business: others see how many tokens there are, copy
    them out with `copy_to` and replace them with `keep`.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forgets everything and frees the tensors."""
        self._k: Tensor | None = None
        self._v: Tensor | None = None
        self._positions: Tensor | None = None
        self._seen = 0
        self.notes: dict[str, Tensor] = {}

    @property
    def k(self) -> Tensor | None:
        """(B, H, T, D) held keys, or None before the first scale."""
        return self._k

    @property
    def v(self) -> Tensor | None:
        """(B, H, T, D) held values, or None before the first scale."""
        return self._v

    @property
    def positions(self) -> Tensor | None:
        """(B, H, T) int32 place of each held token in the picture; None: tokens 0 to T - 1."""
        return self._positions

    @property
    def seen(self) -> int:
        """Tokens of the picture this layer has been given so far, held or dropped."""
        return self._seen

    @property
    def tokens(self) -> int:
        """Held tokens of the head that holds most."""
        return 0 if self._k is None else self._k.shape[2]

    @property
    def kept(self) -> Tensor:
        """(B, H) int64 held tokens per sequence and head, on the CPU; (0, 0) when empty."""
        if self._k is None:
            return torch.zeros((0, 0), dtype=torch.int64)
        return torch.full(self._k.shape[:2], self._k.shape[2], dtype=torch.int64)

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the held keys and values occupy, read off their storage."""
        return sum(_storage_bytes(held) for held in (self._k, self._v))

    @property
    def index_nbytes(self) -> int:
        """Bytes of memory that the positions and the notes occupy."""
        return sum(_storage_bytes(x) for x in (self._positions, *self.notes.values()))

    def copy_to(self, k_out: Tensor, v_out: Tensor) -> None:
        """Writes the held tokens into two (B, H, tokens, D) tensors."""
        assert self._k is not None, "nothing is held"
        assert self._v is not None, "nothing is held"
        k_out.copy_(self._k)
        v_out.copy_(self._v)

    def positions_with(self, new: int) -> Tensor | None:
        """(B, H, tokens + new) positions once `new` tokens follow the held ones.

        None where nothing was dropped.
        """
        held = self._positions
        if held is None:
            return None
        start, end = self._seen, self._seen + new
        appended = torch.arange(start, end, dtype=held.dtype, device=held.device)
        return torch.cat((held, appended.expand(*held.shape[:2], new)), dim=2)

    def keep(self, k: Tensor, v: Tensor, slots: Tensor | None) -> None:
        """Holds `slots` of the given tokens instead of what was held; the old is freed first.

        Args:
            k, v: (B, H, T, D), what was held followed by the tokens that are new.
            slots: (B, H, n) int64, ascending along n; None keeps all T. Copies are taken either
                way, so that k and v may be overwritten afterwards.
        """
        new = k.shape[2] - self.tokens
        assert new >= 0, f"{k.shape[2]} tokens given, {self.tokens} held already"
        if slots is None:
            positions = self.positions_with(new)
        else:
            positions = _kept_positions(self.positions_with(new), slots)
        self._seen += new
        self._k = self._v = None
        self._positions = positions
        self._k = _kept(k, slots)
        self._v = _kept(v, slots)


def _kept(x: Tensor, slots: Tensor | None) -> Tensor:
    """A contiguous copy of `slots` (B, H, n), or of all slots, of x (B, H, T, D)."""
    x = x.detach()
    if slots is None:
        return x.clone(memory_format=torch.contiguous_format)
    batch, heads, tokens, dim = x.shape
    rows = torch.arange(batch * heads, device=x.device).view(batch, heads, 1) * tokens + slots
    # Whole rows are copied at once; gather along the token axis would go element by element.
    return x.reshape(-1, dim).index_select(0, rows.flatten()).view(batch, heads, -1, dim)


def _kept_positions(positions: Tensor | None, slots: Tensor) -> Tensor:
    if positions is None:
        return slots.to(torch.int32)
    return positions.gather(2, slots)


def _storage_bytes(x: Tensor | None) -> int:
    return 0 if x is None else x.untyped_storage().nbytes()
