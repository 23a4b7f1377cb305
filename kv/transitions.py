"""Keeping a budget while layers are rewritten. Pure arithmetic on capacities; knows no tensors.

After each scale the layers are rewritten one after another, layer 0 first. Where an early layer
grows and a later one is still to shrink, all of them together may hold more than either scale's
budget allows. The later one then has to shrink a scale early.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from scalekv.kv.budget import Budget
from scalekv.kv.schedule import Schedule

Row = list[list[int]]
"""Tokens by layer and head."""


def within(budget: Budget) -> Budget:
    """What may really be held, so that no moment of a picture sees more than the mean.

    A head about to shrink holds as little as its next capacity already one scale before: the last
    layers first, and in all no more tokens than the fullest moment is too full by. All else is as
    planned, in particular whatever grows.

    Returns:
        Capacities nowhere above those given, and the very budget given where it needs no change.
        `peak_held_tokens` of it is at most mean * layers (* heads).
    """
    capacities = [
        [list(budget.limits(scale, layer, budget.heads or 1)) for layer in range(budget.layers)]
        for scale in range(len(budget.schedule))
    ]
    held = _held(capacities, budget.schedule)
    most = budget.mean * budget.layers * (budget.heads or 1)
    changed = False
    # Backwards, since a capacity lowered is what the scale before it then has to shrink to.
    for scale in range(len(held) - 1, 0, -1):
        excess = _fullest(held[scale - 1], held[scale]) - most
        for layer in reversed(range(budget.layers)):
            for head, after in enumerate(held[scale][layer]):
                surplus = held[scale - 1][layer][head] - after
                if given := min(surplus, excess) if surplus > 0 < excess else 0:
                    held[scale - 1][layer][head] -= given
                    capacities[scale - 1][layer][head] = held[scale - 1][layer][head]
                    excess -= given
                    changed = True
    if not changed:
        return budget
    by_head = tuple(tuple(tuple(heads) for heads in row) for row in capacities)
    return replace(
        budget,
        capacities=tuple(tuple(max(heads) for heads in row) for row in by_head),
        head_capacities=by_head if budget.heads else (),
    )


def _held(capacities: Sequence[Row], schedule: Schedule) -> list[Row]:
    """What a policy holds that fills its capacities."""
    held = [[[0] * len(heads) for heads in row] for row in capacities[:1]]
    for row, new in zip(capacities[1:], schedule.tokens, strict=False):
        held.append(
            [
                [min(most, has + new) for most, has in zip(limits, before, strict=True)]
                for limits, before in zip(row, held[-1], strict=True)
            ]
        )
    return held


def _fullest(before: Row, after: Row) -> int:
    """The most tokens held at any moment while `before` is rewritten to `after`."""
    total = peak = sum(map(sum, before))
    for old, new in zip(before, after, strict=True):
        total += sum(new) - sum(old)
        peak = max(peak, total)
    return peak
