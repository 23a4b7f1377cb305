"""What the transformer makes of text features: rows, their keys and values, and one vector.

Knows rows of text under the official tensor names; nothing of pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scalekv.infinity_patch.compute.kernels.norm import EPS as NORM_EPS
from scalekv.infinity_patch.compute.products import apply
from scalekv.kv.to_device import whole_numbers


class TextNorm(nn.Module):
    """RMS norm over the last axis, in float32."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        x = x.float()
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + NORM_EPS) * self.weight.float()


@dataclass
class TextRows:
    """Rows of several sequences padded to the longest, (G, T, C); mask (G, 1, 1, T) or None."""

    rows: Tensor
    mask: Tensor | None

    @classmethod
    def pad(cls, sequences: Sequence[Tensor], length: int | None = None) -> TextRows:
        """Stack (len, C) matrices, each padded to `length`, or to the longest; the mask is left out
        where no length is given and all have the same."""
        lengths = [len(s) for s in sequences]
        rows = nn.utils.rnn.pad_sequence(list(sequences), batch_first=True)
        if length is not None:
            rows = F.pad(rows, (0, 0, 0, length - rows.shape[1]))
        elif len(set(lengths)) == 1:
            return cls(rows, None)
        places = torch.arange(rows.shape[1], device=rows.device)
        real = places[None] < whole_numbers(tuple(lengths), rows.device)[:, None]
        return cls(rows, real[:, None, None])


def additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """What attention makes of a bool mask, made once: 0 where it is true, else minus infinity."""
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(mask.logical_not(), -torch.inf)


class TextKeysValues(nn.Module):
    """Keys and values from text rows: no bias on keys, `v_bias` on values."""

    def __init__(self, text_width: int, width: int):
        super().__init__()
        self.mat_kv = nn.Linear(text_width, 2 * width, bias=False)
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.proj = nn.Linear(width, width)

    def keys_values(self, rows: Tensor, heads: int) -> tuple[Tensor, Tensor]:
        """k and v of text rows (G, T, Ct), each (G, heads, T, width / heads)."""
        bias = torch.cat([torch.zeros_like(self.v_bias), self.v_bias])
        kv = apply(self.mat_kv, rows, bias=bias)
        k, v = kv.unflatten(-1, (2, heads, -1)).permute(2, 0, 3, 1, 4)
        return k.contiguous(), v.contiguous()


class PoolAttention(TextKeysValues):
    """One learned query over the text rows."""

    def __init__(self, text_width: int, width: int):
        super().__init__(text_width, width)
        heads = text_width // (64 if width > 4096 else 128)
        self.mat_q = nn.Parameter(torch.zeros(1, heads, width // heads))

    def forward(self, text: TextRows) -> Tensor:
        """(G, width) from text rows."""
        heads = self.mat_q.shape[1]
        k, v = self.keys_values(text.rows, heads)
        q = self.mat_q.to(k.dtype)[:, :, None].expand(len(k), -1, -1, -1)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=text.mask)
        return apply(self.proj, out.flatten(1))


class TextPool(nn.Module):
    """The start-of-sequence vector of a text."""

    def __init__(self, text_width: int, width: int):
        super().__init__()
        self.ca = PoolAttention(text_width, width)

    def forward(self, text: TextRows) -> Tensor:
        out: Tensor = self.ca(text)
        return out
