"""Keeping a budget while layers are rewritten. Pure arithmetic on capacities; knows no tensors.

After each scale the layers are rewritten one after another, layer 0 first. Where an early layer
grows and a later one is still to shrink, all of them together may hold more than either scale's
budget allows. Then the later ones have to shrink a scale early, or the early ones to grow a scale
late.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from itertools import accumulate

from scalekv.kv.budgets.budget import Budget, filled

Row = list[int]
"""Tokens of every head of every layer, layer after layer."""


def within(budget: Budget) -> Budget:
    """What may really be held, so that no moment of a picture sees more than the mean.

    At every scale after which the layers would, while they are rewritten, together hold more than
    that, one side gives way by as many tokens as are too many at the fullest moment: the heads
    about to shrink, the last layers first, by shrinking before the scale instead of after it; or
    those that grow before that moment, in proportion, by growing after the next scale only. It is
    the side of which a smaller part is asked for.

    Returns:
        Capacities nowhere above those given, and the very budget given where it needs no change.
        `peak_held_tokens` of it is at most mean * layers (* heads). A budget that is bound by
        scale alone is left as it is.
    """
    if budget.bound == "scale":
        return budget
    heads = budget.heads or 1
    most = budget.mean * budget.layers * heads
    planned = [
        [tokens for layer in range(budget.layers) for tokens in budget.limits(scale, layer, heads)]
        for scale in range(len(budget.schedule))
    ]
    held, changed = [planned[0]], False
    for limits, new in zip(planned[1:], budget.schedule.tokens, strict=False):
        then = list(filled(limits, held[-1], new))
        while (excess := max(_moments(held[-1], then, heads)) - most) > 0:
            shrink, shrunk = _shrunk(held[-1], then, excess)
            grow, grown = _ungrown(held[-1], then, excess, heads)
            if shrink <= grow:
                held[-1] = shrunk
            else:
                then = grown
            changed = True
        held.append(then)
    if not changed:
        return budget
    by_head = tuple(
        tuple(tuple(row[at : at + heads]) for at in range(0, len(row), heads)) for row in held
    )
    return replace(
        budget,
        capacities=tuple(tuple(max(layer) for layer in row) for row in by_head),
        head_capacities=by_head if budget.heads else (),
    )


def _moments(before: Row, then: Row, heads: int) -> Row:
    """Tokens held by all together after each layer's rewriting."""
    changes = [new - old for old, new in zip(before, then, strict=True)]
    layers = (sum(changes[at : at + heads]) for at in range(0, len(changes), heads))
    return list(accumulate(layers, initial=sum(before)))


def _shrunk(before: Row, then: Row, excess: int) -> tuple[Fraction, Row]:
    """`before` with `excess` tokens fewer in the last heads that shrink, down to what they shrink
    to, and the share of their tokens that is."""
    row, left, asked = list(before), excess, 0
    for head in reversed(range(len(row))):
        if left and before[head] > then[head]:
            given = min(left, before[head] - then[head])
            row[head] -= given
            left -= given
            asked += before[head]
    assert not left, (before, then, excess)
    return Fraction(excess, asked), row


def _ungrown(before: Row, then: Row, excess: int, heads: int) -> tuple[Fraction, Row]:
    """`then` with `excess` tokens fewer in the heads that grow before the fullest moment, in
    proportion to their growth, and the share of their tokens that is."""
    moments = _moments(before, then, heads)
    fullest = heads * moments.index(max(moments))  # so many heads have been rewritten by then
    growers = [head for head in range(fullest) if then[head] > before[head]]
    growth = sum(then[head] - before[head] for head in growers)
    asked = sum(then[head] for head in growers)
    row, left = list(then), excess
    for head in growers:
        given = -(-left * (then[head] - before[head]) // growth)  # rounded up, of what is left
        growth -= then[head] - before[head]
        row[head] -= given
        left -= given
    assert not left, (before, then, excess)
    return Fraction(excess, asked), row
