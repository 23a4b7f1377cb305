"""Attention in bf16 by plain matrix products, for processors whose fused kernel is slow in it.

Knows tensors only. Where a processor has bf16 products but no AMX, torch's fused attention
multiplies in float32; two products of q and k in bf16 and one with v take half its time.
"""

from __future__ import annotations

import torch
from torch import Tensor

TILE = 1 << 21  # weights held at a time and thread, a few megabytes of the last-level cache
MOST_ROWS = 512  # queries beyond which a longer tile gains nothing
FEWEST_ROWS = 32  # queries below which the fused kernel is as fast


def worthwhile(q: Tensor) -> bool:
    """Whether queries (B, H, L, D) are of the kind and number this is made for."""
    plain = q.dtype == torch.bfloat16 and q.device.type == "cpu" and not q.requires_grad
    return plain and q.shape[2] >= FEWEST_ROWS


def tiled_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T) v of bf16 tensors q (B, H, L, D), k and v (B, H, T, D), to (B, H, L, D).

    A first product finds each query's largest logit; a second one gives the logits less that
    value, rounded after the subtraction, so that large logits lose no more than small ones.
    Against float64 the error is at most twice the fused kernel's, 0.002 to 0.0045 of the answer's
    norm for queries 2 to 40 times as long as the keys; rounding the answer alone costs 0.0017.
    """
    batch, heads, length, dim = q.shape
    tokens, together = k.shape[2], batch * heads
    queries, keys, values = q.flatten(0, 1), k.flatten(0, 1).mT, v.flatten(0, 1)
    group, rows = _tile(together, length, tokens)
    buffer = torch.empty(group * rows * tokens, dtype=q.dtype)
    answer = torch.empty(together, length, dim, dtype=q.dtype)
    for first in range(0, together, group):
        some = slice(first, first + group)
        k_T, values_of = keys[some], values[some]
        for start in range(0, length, rows):
            part = queries[some, start : start + rows]
            shape = (part.shape[0], part.shape[1], tokens)
            weights = buffer[: shape[0] * shape[1] * tokens].view(shape)
            torch.bmm(part, k_T, out=weights)
            largest = weights.amax(-1, keepdim=True).expand(shape)
            torch.baddbmm(largest, part, k_T, beta=-1, out=weights).exp_()
            total = weights.sum(-1, keepdim=True, dtype=torch.float32)
            answer[some, start : start + rows] = torch.bmm(weights, values_of) / total
    return answer.view(batch, heads, length, dim)


def _tile(together: int, length: int, tokens: int) -> tuple[int, int]:
    """How many heads of all sequences, and how many queries of each, to take at a time."""
    threads = torch.get_num_threads()
    most = TILE * threads
    rows = max(min(length, MOST_ROWS, most // (tokens * min(threads, together))), 1)
    group = min(max(most // (tokens * rows), 1), together)
    if group < together:  # every thread the same number of heads
        group = max(group // threads * threads, 1)
    return group, rows
