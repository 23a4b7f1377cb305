"""Which models fit on which cards, and with how much of the cache. Knows planners alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from scalekv.infinity_patch.planning.lighter import LIGHTER
from scalekv.infinity_patch.planning.planner import Planner
from scalekv.kv.errors import BudgetTooSmall

CARDS = (6, 8, 12, 16, 24, 48, 80)
"""Sizes that cards are sold with, in 10^9 bytes."""

LEAST = 0.04
"""Of the history: a smaller budget is no reason to stay with a faster placement."""


@dataclass(frozen=True)
class Fitting:
    """How one picture fits on a card.

    share: of the history's tokens that the caches may hold, 1 where nothing has to be dropped, 0
    where even the lightest placement does not fit; placement: options that it takes besides.
    """

    share: float
    placement: str


def fitting(planner: Planner, memory: int) -> Fitting:
    """The fastest way to draw one picture within so many bytes that keeps at least `LEAST`, else
    the one that keeps most.

    Args:
        planner: of one picture, with a policy that takes a budget.
    """
    best = Fitting(0, "")
    for options, changes in LIGHTER:
        placed = planner.placed(**changes)
        share = _largest_share(placed, memory)
        if share > best.share:
            best = Fitting(share, options)
        if share >= LEAST:
            break
    return best


def _largest_share(planner: Planner, memory: int) -> float:
    if planner.unbounded().footprint(1).needed <= memory:
        return 1
    history = max(planner.settled.schedule.history, 1)
    try:
        tokens = planner.largest_budget(memory, 1)
    except BudgetTooSmall:
        return 0
    return (tokens or 0) / history


def on_cards(planner: Planner, cards: Sequence[int] = CARDS) -> dict[int, Fitting]:
    """How one picture fits on each of the cards, by their size in 10^9 bytes."""
    return {size: fitting(planner, size * 10**9) for size in cards}
