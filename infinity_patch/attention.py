"""Self-attention of one scale: from hidden states to q, k, v, and from the answer back.

Works on any module with the published attribute names (`mat_qkv`, `q_bias`, `v_bias`,
`scale_mul_1H11`, `proj`), ours or the published repository's; knows nothing of what is cached.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scalekv.infinity_patch.rotary import Scales3, rotate, table_of_scale

MAX_LOG_SCALE = math.log(100)


class SelfAttentionLike(Protocol):
    """What a self-attention module must have to be run here."""

    @property
    def mat_qkv(self) -> nn.Linear: ...
    @property
    def q_bias(self) -> Tensor: ...
    @property
    def v_bias(self) -> Tensor: ...
    @property
    def scale_mul_1H11(self) -> Tensor: ...
    @property
    def proj(self) -> nn.Linear: ...


def queries_keys_values(
    sa: SelfAttentionLike,
    x: Tensor,
    schedule: Scales3,
    tables: Mapping[str, Tensor],
    scale: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """q, k, v of one scale's tokens, each (B, H, L, D), contiguous, in the compute dtype.

    x is (B, L, C). q and k are normalised over D, q multiplied by the learned scale of its head,
    both rotated, all in float32, then cast once: what is cached is what attention reads.
    """
    heads = sa.scale_mul_1H11.shape[1]
    weight = sa.mat_qkv.weight
    bias = torch.cat([sa.q_bias, torch.zeros_like(sa.v_bias), sa.v_bias])
    qkv = F.linear(x.to(weight.dtype), weight, bias)
    q, k, v = qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    gain = sa.scale_mul_1H11.float().clamp_max(MAX_LOG_SCALE).exp()
    table = table_of_scale(tables, schedule, scale)
    q = rotate(F.normalize(q.float(), dim=-1) * gain, table).to(qkv.dtype)
    k = rotate(F.normalize(k.float(), dim=-1), table).to(qkv.dtype)
    return q, k, v.contiguous()


def raw_queries(sa: SelfAttentionLike, x: Tensor, tokens: Tensor) -> Tensor:
    """(B, H, W, D) queries of some tokens as the projection alone gives them.

    x is (B, L, C), tokens (W,) int64. Nothing is added, normalised, scaled or rotated; only the
    queries' third of the projection is computed, for these tokens.
    """
    weight = sa.mat_qkv.weight
    width = weight.shape[0] // 3
    q = F.linear(x.index_select(1, tokens).to(weight.dtype), weight[:width])
    queries: Tensor = q.unflatten(-1, (sa.scale_mul_1H11.shape[1], -1)).transpose(1, 2)
    return queries


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Every query sees every key; softmax scale 1, since q carries the learned scale."""
    return F.scaled_dot_product_attention(q, k, v, scale=1.0)


def project(sa: SelfAttentionLike, out: Tensor) -> Tensor:
    """Attention output (B, H, L, D) through the output projection, (B, L, C), a fresh tensor."""
    answer: Tensor = sa.proj(out.transpose(1, 2).flatten(2))
    return answer
