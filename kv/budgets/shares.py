"""Dividing one scale's budget among the layers. Pure arithmetic on token counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd

from scalekv.kv.errors import UserError
from scalekv.kv.schedule import Schedule

LEAST = 200  # tokens left to a layer that is no drafter, in the budgets released with ScaleKV


@dataclass(frozen=True)
class Linear:
    """The paper's rule (arXiv 2505.19602): at the k-th scale that drops tokens, from 0, a layer
    that is no drafter keeps `refiner_start` - `delta` k tokens, and the drafters share the rest.

    The paper does not say where k starts. Counted from the first of all scales, its own figures
    (start 600, delta 70, 13 scales) would leave layers with less than nothing.

    Attributes:
        refiner_start: tokens, at least 1.
        delta: tokens fewer per scale, at least 0.

    Raises:
        UserError: a number below these.
    """

    refiner_start: int
    delta: int

    def __post_init__(self) -> None:
        for name, least in (("refiner_start", 1), ("delta", 0)):
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise UserError(
                    f"{name} is {value!r}",
                    where="linear rule",
                    rule=f"{name} is a whole number, at least {least}",
                )

    def __str__(self) -> str:
        share = f"{self.refiner_start} - {self.delta} k"
        return f"the linear rule, {share} for layers that are no drafters"

    def shares(self, schedule: Schedule, mean: int, window: int, where: str) -> dict[int, int]:
        """What a layer that is no drafter keeps, by scale, wherever the history exceeds the mean.

        Raises:
            UserError: it begins above the mean, or falls below the window.
        """
        dropping = [scale for scale in range(len(schedule)) if schedule.before(scale) > mean]
        kept = {scale: self.refiner_start - self.delta * k for k, scale in enumerate(dropping)}
        if not kept:
            return {}
        least = min(window, mean)
        last = kept[dropping[-1]]
        if self.refiner_start > mean or self.refiner_start < least:
            raise UserError(
                f"layers that are no drafters would start with {self.refiner_start} tokens",
                where=where,
                rule=f"at least {least} and at most the mean, {mean}",
                fix=f"refiner_start: {mean if self.refiner_start > mean else least}",
            )
        if last < least:
            raise UserError(
                f"layers that are no drafters would keep {last} tokens at scale {len(schedule)}",
                where=where,
                rule=f"at least {least}; {len(dropping)} scales drop tokens here",
                fix=f"delta: at most {(self.refiner_start - least) // (len(dropping) - 1)}",
            )
        return kept


def allot(
    available: Sequence[int], drafters: Sequence[int], mean: int, window: int
) -> tuple[int, ...]:
    """Capacities of all layers at one scale, averaging exactly `mean`.

    The rule reproduces the budgets released with ScaleKV: with N_d drafters and N_r others, t is
    the largest integer such that mean + N_r/N_d t is an integer no drafter need leave unfilled and
    mean - t does not fall below the least; drafters get the former, the others the latter. The
    least is 200 tokens, or max(window, mean // 2) for means below 200; where the mean is below
    even that, all layers get the mean. Tokens a layer was allotted but no longer has go to the
    drafters that have more, then to the others, as evenly as they can take them.

    Args:
        available: per layer, the tokens it could hold: those held before plus the newest map's.
        drafters: layers that get more; none makes the allotment uniform.
        mean: tokens per layer; the layers together must have that many available.
        window: tokens of the observation window.
    """
    total = mean * len(available)
    assert sum(available) >= total, (available, mean)
    others = [layer for layer in range(len(available)) if layer not in set(drafters)]
    return fitted(_shares(available, drafters, mean, window), available, (drafters, others))


def allot_rest(
    available: Sequence[int], drafters: Sequence[int], mean: int, refiner: int
) -> tuple[int, ...]:
    """Capacities of all layers at one scale, averaging exactly `mean`: the layers that are no
    drafters get `refiner` tokens each and the drafters share the rest evenly, the first of them
    what does not divide. What drafters cannot fill goes back to the others.

    Without drafters, or with drafters only, every layer gets the mean.

    Args:
        available, drafters, mean: as for `allot`.
        refiner: at most the mean.
    """
    layers = len(available)
    assert sum(available) >= mean * layers, (available, mean)
    assert refiner <= mean, (refiner, mean)
    others = [layer for layer in range(layers) if layer not in set(drafters)]
    if not drafters:
        refiner = mean
    shares = [refiner] * layers
    each, odd = divmod(mean * layers - refiner * len(others), len(drafters) or 1)
    for place, layer in enumerate(sorted(drafters)):
        shares[layer] = each + (place < odd)
    return fitted(shares, available, (drafters, others))


def fitted(
    shares: Sequence[int], available: Sequence[int], groups: Sequence[Sequence[int]]
) -> tuple[int, ...]:
    """Shares cut to what each layer has available, and what is cut off given to other layers.

    Args:
        shares: tokens wanted per layer.
        available: the most each layer can take.
        groups: layers in the order in which they are offered what others cannot take; within a
            group it is spread as evenly as there is room.
    """
    capacities = [min(share, most) for share, most in zip(shares, available, strict=True)]
    for group in groups:
        _pour(sum(shares) - sum(capacities), capacities, available, group)
    return tuple(capacities)


def _shares(available: Sequence[int], drafters: Sequence[int], mean: int, window: int) -> list[int]:
    """Every layer's share before looking at what the single layer still has."""
    layers = len(available)
    n_drafters, n_others = len(drafters), len(available) - len(drafters)
    least = LEAST if mean >= LEAST else max(window, mean // 2)
    if not drafters or not n_others or mean <= least:
        return [mean] * layers
    limit = max(available[layer] for layer in drafters)
    t = min(mean - least, max(limit - mean, 0) * n_drafters // n_others)
    t -= t % (n_drafters // gcd(n_drafters, n_others))
    shares = [mean - t] * layers
    for layer in drafters:
        shares[layer] = mean + n_others * t // n_drafters
    return shares


def _pour(
    amount: int, capacities: list[int], available: Sequence[int], group: Sequence[int]
) -> None:
    """Adds up to `amount` to the group's capacities in place, evenly among those with room; what
    does not divide goes to the first layers."""
    while amount:
        open_layers = [layer for layer in group if capacities[layer] < available[layer]]
        if not open_layers:
            return
        each, odd = divmod(amount, len(open_layers))
        for place, layer in enumerate(open_layers):
            room = available[layer] - capacities[layer]
            added = min(each + (place < odd), room)
            capacities[layer] += added
            amount -= added
