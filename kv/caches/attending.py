"""Attention over what a layer holds, whether its heads hold equally many tokens or not. Knows
shapes; attention itself is handed in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from scalekv.kv.caches.layer import LayerCache
from scalekv.kv.errors import UserError
from scalekv.kv.schedule import Schedule
from scalekv.kv.to_device import whole_numbers

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(q (B, H, L, D), k (B, H, T, D), v (B, H, T, D)) -> a new tensor, no view of k or v. Numbers of a
vector lie side by side; otherwise k and v are strided."""

Ragged = Callable[[Tensor, Tensor, Tensor, int, tuple[int, ...]], Tensor]
"""Attention of many sequences of unequal length in one call: (q (N * L, D), k (sum of T, D), v
likewise, L, the N lengths T) -> (N * L, D), new; sequence after sequence in each."""

Observer = Callable[[int, int, Schedule, Tensor, Tensor, Tensor], None]
"""(layer, scale, schedule, q (B, H, L, D), k and v (B, H, T, D)) of an attention call about to be
made, the last scale's too; under a policy that keeps everything, key t is the picture's token t.
Tensors are for the time of the call: what is kept has to be copied, for the next layer's may take
their place."""

Turns = Callable[[], Tensor]
"""-> (L, D / 2) complex, what each pair of channels of the newest map's keys was multiplied by."""

RESET = "the layer's cache was reset in the middle of a picture"

Joined = list[Tensor]
"""For each group of heads (2, B, h, T, D): k and v of everything cached."""


@dataclass(frozen=True)
class Placed:
    """What a layer's attention at a scale will read, and where in it the new tokens belong.

    Attributes:
        k, v: (B, H, L, D) to be written to; for heads in several groups, on their way there.
        there: whether `joined` is where the layer holds its tokens.
    """

    layer: int
    scale: int
    joined: Joined
    k: Tensor
    v: Tensor
    there: bool


def distribute(cache: LayerCache, placed: Placed) -> None:
    """Copies new tokens of all heads behind those that their groups hold."""
    with torch.no_grad():
        for group, kv in zip(cache.groups, placed.joined, strict=True):
            for x, into in zip((placed.k, placed.v), kv, strict=True):
                into[:, :, group.tokens :].copy_(cache.of(group, x))


def attended(
    cache: LayerCache, q: Tensor, joined: Joined, attention: Attention, ragged: Ragged | None
) -> Tensor:
    """Attention of all heads: one call for those that hold equally many tokens, or for all."""
    if cache.all_together:
        return attention(q, *joined[0])
    queries = [cache.of(group, q) for group in cache.groups]
    if ragged is None:
        answers = [attention(q_part, *kv) for q_part, kv in zip(queries, joined, strict=True)]
    else:
        answers = _in_one_call(queries, joined, ragged)
    order = [head for group in cache.groups for head in group.heads]
    places = tuple(sorted(range(len(order)), key=order.__getitem__))
    return torch.cat(answers, dim=1).index_select(1, whole_numbers(places, q.device))


def _in_one_call(queries: list[Tensor], joined: Joined, ragged: Ragged) -> list[Tensor]:
    """Each group's attention (B, h, L, D); every head of every sequence is a sequence here."""
    length, dim = queries[0].shape[2:]
    lengths = tuple(kv.shape[3] for kv in joined for _ in range(kv.shape[1] * kv.shape[2]))
    # The groups lie one behind the other in the workspace: that is the form wanted, uncopied.
    k_rows, v_rows = (first.as_strided((sum(lengths), dim), (dim, 1)) for first in joined[0])
    q_rows = torch.cat([of_group.reshape(-1, dim) for of_group in queries])
    rows = ragged(q_rows, k_rows, v_rows, length, lengths)
    sizes = [of_group.shape[0] * of_group.shape[1] * length for of_group in queries]
    return [
        part.view(of_group.shape) for part, of_group in zip(rows.split(sizes), queries, strict=True)
    ]


@dataclass(frozen=True)
class Unwritten:
    """What is known of a scale's keys before there are any; see `Like`."""

    shape: tuple[int, int, int, int]
    dtype: torch.dtype
    device: torch.device


def out_of_turn(layer: int, scale: int, due: int) -> UserError:
    """A layer was called for a scale, from 0, when another was due."""
    return UserError(
        f"scale {scale + 1} came when scale {due + 1} was due",
        where=f"layer {layer}",
        rule="every layer goes through the scales of a picture in order",
        fix="start the picture again from its first scale",
    )


def changed(what: str, layer: int, scale: int) -> UserError:
    """Something changed in the middle of a picture that may not."""
    return UserError(
        what,
        where=f"layer {layer}, scale {scale + 1}",
        rule="every layer goes through all scales of a picture, under one schedule",
        fix="start the picture again from its first scale",
    )
