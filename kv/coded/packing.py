"""Whole numbers of a few bits to bytes and back, in vector steps. Knows nothing of what they stand
for."""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from scalekv.kv.coded.levels import PIECES, code_bytes


def pack(codes: Tensor, bits: int) -> Tensor:
    """(n,) uint8 codes below 2**bits to (code_bytes(n, bits),) uint8."""
    pieces, left = PIECES[bits], bits
    parts = []
    for piece in pieces:
        left -= piece
        part = codes if len(pieces) == 1 else (codes >> left) & (2**piece - 1)
        parts.append(_packed(part, piece))
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def unpack(packed: Tensor, bits: int, count: int) -> Tensor:
    """(count,) uint8 codes of packed ones."""
    whole: Tensor | None = None
    for piece in PIECES[bits]:
        part, packed = packed.tensor_split([code_bytes(count, piece)])
        codes = _unpacked(part, piece)[:count]
        whole = codes if whole is None else (whole << piece) | codes
    assert whole is not None, f"{bits} bits cannot be packed"
    assert not len(packed), (bits, count, packed.shape)
    return whole


def _packed(codes: Tensor, piece: int) -> Tensor:
    """Byte i has the codes i, i + m, i + 2 m, …, lowest bits first, of m bytes in all."""
    if piece == 8:
        return codes
    per_byte = 8 // piece
    size = code_bytes(len(codes), piece)
    rows = F.pad(codes, (0, size * per_byte - len(codes))).view(per_byte, size)
    return (rows << _shifts(piece, codes.device)).sum(0, dtype=torch.uint8)


def _unpacked(packed: Tensor, piece: int) -> Tensor:
    if piece == 8:
        return packed
    rows = packed >> _shifts(piece, packed.device)
    return rows.bitwise_and_(2**piece - 1).flatten()


# An ordinary tensor even under inference mode: it is kept, and used outside of it too.
@lru_cache(maxsize=32)
@torch.inference_mode(False)
def _shifts(piece: int, device: torch.device) -> Tensor:
    """(codes a byte, 1) uint8: how far each is shifted."""
    return torch.arange(0, 8, piece, dtype=torch.uint8, device=device).unsqueeze(1)
