"""Groups of heads that hold unequally many tokens: their attention, and what is chosen for each.

Knows shapes; attention itself is handed in.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from scalekv.kv.caches.layer import LayerCache

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(q (B, H, L, D), k (B, H, T, D), v (B, H, T, D)) -> a new tensor, no view of k or v."""


Ragged = Callable[[Tensor, Tensor, Tensor, int, tuple[int, ...]], Tensor]
"""Attention of many sequences of unequal length in one call: (q (N * L, D), k (sum of T, D), v
likewise, L, the N lengths T) -> (N * L, D), new; sequence after sequence in each."""


Joined = list[tuple[Tensor, Tensor]]
"""For each group of heads k and v (B, h, T, D) of everything cached."""


RawQueries = Callable[[Tensor], Tensor]
"""(W,) tokens of the newest map -> (B, H, W, D); see `Step.raw_queries`."""


def attended(
    cache: LayerCache, q: Tensor, joined: Joined, attention: Attention, ragged: Ragged | None
) -> Tensor:
    """Attention of all heads: one call for those that hold equally many tokens, or for all."""
    if cache.all_together:
        return attention(q, *joined[0])
    queries = [cache.of(group, q) for group in cache.groups]
    if ragged is None:
        answers = [attention(some, *kv) for some, kv in zip(queries, joined, strict=True)]
    else:
        answers = _in_one_call(queries, joined, ragged)
    order = [head for group in cache.groups for head in group.heads]
    places = tuple(sorted(range(len(order)), key=order.__getitem__))
    return torch.cat(answers, dim=1).index_select(1, cache.rows(places, q.device))


def _in_one_call(queries: list[Tensor], joined: Joined, ragged: Ragged) -> list[Tensor]:
    """Each group's attention (B, h, L, D); every head of every sequence is a sequence here."""
    length, dim = queries[0].shape[2:]
    lengths = tuple(k.shape[2] for k, _ in joined for _ in range(k.shape[0] * k.shape[1]))
    # The groups lie one behind the other in the workspace: that is the form wanted, uncopied.
    k_rows, v_rows = (first.as_strided((sum(lengths), dim), (dim, 1)) for first in joined[0])
    q_rows = torch.cat([some.reshape(-1, dim) for some in queries])
    rows = ragged(q_rows, k_rows, v_rows, length, lengths)
    sizes = [some.shape[0] * some.shape[1] * length for some in queries]
    return [part.view(some.shape) for part, some in zip(rows.split(sizes), queries, strict=True)]


def alike(heads: tuple[int, ...], limits: tuple[int, ...]) -> list[tuple[int, ...]]:
    """The heads that may keep equally many tokens together, in their order."""
    by_limit: dict[int, list[int]] = {}
    for head in heads:
        by_limit.setdefault(limits[head], []).append(head)
    return [tuple(some) for some in by_limit.values()]


def for_heads(raw_queries: RawQueries, numbers: Tensor) -> RawQueries:
    """The same for some heads alone."""
    return lambda tokens: raw_queries(tokens).index_select(1, numbers)
