"""How methods other than ScaleKV share tokens among their layers: the same for all, or a pyramid.
Pure arithmetic, at the mean of the budget asked for; knows no tensors."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from math import floor

from scalekv.kv.budgets.asked import capacities_for
from scalekv.kv.budgets.budget import Budget
from scalekv.kv.budgets.shares import fitted

BETA = 20  # arXiv 2406.02069: the last layer's share is the mean over beta


def uniform(asked: Budget) -> Budget:
    """The same mean, bound alike, every layer getting it; drafters are ignored."""
    even = capacities_for(
        asked.schedule,
        asked.layers,
        (),
        asked.mean,
        asked.window,
        label=asked.label,
        origin="the same for every layer",
    )
    return replace(even, bound=asked.bound)


def pyramid(asked: Budget, beta: int = BETA) -> Budget:
    """The same mean with capacities that fall linearly from the first layer to the last.

    PyramidKV's rule (arXiv 2406.02069): every layer holds its observation window; of the rest the
    last layer gets the mean over `beta` and the first as much above the mean as the last is below,
    or, where fewer tokens exist than that, all of them, and the last layer what then keeps the
    mean. Whole tokens that do not divide go to the first layers. What a layer cannot take, because
    it dropped tokens at an earlier scale, goes to the others.
    """
    schedule, layers, mean = asked.schedule, asked.layers, asked.mean
    capacities = [(0,) * layers]
    for scale in range(1, len(schedule)):
        history = schedule.before(scale)
        if history <= mean:
            capacities.append((history,) * layers)
            continue
        window = min(asked.window, max(mean // 4, 1))  # what `Step.observers` allows the mean layer
        shares = [window + rest for rest in _slope(layers, mean - window, history - window, beta)]
        available = [held + schedule.tokens[scale - 1] for held in capacities[-1]]
        capacities.append(fitted(shares, available, [range(layers)]))
    return Budget(
        schedule=schedule,
        layers=layers,
        capacities=tuple(capacities),
        mean=mean,
        window=asked.window,
        bound=asked.bound,
        label=asked.label,
        origin=f"a pyramid over the layers, beta {beta}",
    )


def _slope(layers: int, mean: int, most: int, beta: int) -> list[int]:
    """Whole numbers falling linearly, averaging exactly `mean`, none above `most`."""
    if layers == 1:
        return [mean]
    first = min(2 * mean - mean // beta, most)
    step = Fraction(2 * (first - mean), layers - 1)
    shares = [floor(first - layer * step) for layer in range(layers)]
    left = mean * layers - sum(shares)
    # The first layer's share is whole already, and may be all there is.
    return [share + (1 <= layer <= left) for layer, share in enumerate(shares)]
