"""Asks a policy which of a layer's tokens stay. Knows steps and groups of heads; no method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from scalekv.kv.budgets.budget import WINDOW, Budget
from scalekv.kv.caches.held import Part
from scalekv.kv.caches.layer import Choice, LayerCache
from scalekv.kv.policies.policy import Policy, Step
from scalekv.kv.schedule import Schedule
from scalekv.kv.to_device import whole_numbers

RawQueries = Callable[[Tensor], Tensor]
"""(W,) tokens of the newest map -> (B, H, W, D); see `Step.raw_queries`."""


@dataclass(frozen=True)
class Asked:
    """What a policy is asked about after one layer attended at one scale.

    Attributes:
        budget: of the picture, as planned; None where nothing has to be dropped.
        q: (B, H, L, D) of all heads.
        there: whether everything cached lies already where the layer holds it.
        raw_queries: see `Step`.
    """

    policy: Policy
    budget: Budget | None
    schedule: Schedule
    layer: int
    scale: int
    q: Tensor
    there: bool
    raw_queries: RawQueries | None

    def choice(
        self,
        cache: LayerCache,
        number: int,
        heads: tuple[int, ...],
        capacity: int,
        room: int,
        kv: Tensor,
    ) -> Choice:
        """What some heads of a group keep.

        Args:
            cache: of the layer.
            number: of the group.
            heads: all of that group's, or some that may keep equally many tokens.
            capacity: the most tokens each may keep.
            room: tokens a head to make room for; more where more are kept.
            kv: (2, B, h, T, D) of everything cached in the group.
        """
        schedule, budget, q, raw_queries = self.schedule, self.budget, self.q, self.raw_queries
        group, new = cache.groups[number], schedule.tokens[self.scale]
        positions = group.positions_with(cache.seen, new, schedule.total, q)
        notes, rows = group.notes, None
        if heads != group.heads:
            rows = whole_numbers(tuple(group.heads.index(head) for head in heads), q.device)
            kv = kv.index_select(2, rows)
            positions = None if positions is None else positions.index_select(1, rows)
            notes = {name: note.index_select(1, rows) for name, note in notes.items()}
        if heads != tuple(range(q.shape[1])):
            numbers = whole_numbers(heads, q.device)
            q = q.index_select(1, numbers)
            if raw_queries is not None:
                raw_queries = _for_heads(raw_queries, numbers)
        if capacity == 0:
            slots: Tensor | None = torch.empty(
                (*kv.shape[1:3], 0), dtype=torch.int64, device=kv.device
            )
        else:
            slots = self.policy.select(
                Step(
                    scale=self.scale,
                    layer=self.layer,
                    heads=heads,
                    schedule=schedule,
                    capacity=capacity,
                    window=WINDOW if budget is None else budget.window,
                    q=q,
                    k=kv[0],
                    v=kv[1],
                    positions=positions,
                    notes=notes,
                    raw_queries=raw_queries,
                    budget=budget,
                )
            )
        part = Part(kv, kv.shape[3] - new, self.scale, slots, rows, self.there)
        assert part.tokens <= capacity, (
            f"{self.policy.name} kept {part.tokens} tokens of layer {self.layer} after scale "
            f"{self.scale + 1}, its capacity is {capacity}"
        )
        return Choice(number, heads, rows, part, max(part.tokens, room), positions, notes)


def alike(heads: tuple[int, ...], limits: tuple[int, ...]) -> list[tuple[int, ...]]:
    """The heads that may keep equally many tokens together, in their order."""
    by_limit: dict[int, list[int]] = {}
    for head in heads:
        by_limit.setdefault(limits[head], []).append(head)
    return [tuple(together) for together in by_limit.values()]


def _for_heads(raw_queries: RawQueries, numbers: Tensor) -> RawQueries:
    return lambda tokens: raw_queries(tokens).index_select(1, numbers)
