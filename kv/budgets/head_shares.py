"""How methods that tell heads or layers apart by what a calibration measured share tokens among
them. Pure arithmetic, at the mean of the budget asked for; knows no tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import floor

from scalekv.kv.budgets.budget import Budget
from scalekv.kv.budgets.shapes import uniform
from scalekv.kv.budgets.shares import fitted
from scalekv.kv.calibration.profile import AttentionProfile
from scalekv.kv.errors import UserError

CONTEXTUAL = 0.5
"""What a contextual head gets of the mean in HACK's plan; a guess, see `hack_budget`."""

LEAST_BY_RELIANCE = 0.25
"""What every head gets of the mean in HACK++'s plan; a guess, see `hack_plus_budget`."""

LEAST_ADAPTIVE = 0.2
"""What every head gets of the mean in Ada-KV's plan: the safeguard of arXiv 2407.11550."""

LEAST_BY_CHANGE = 0.5
"""What every layer gets of the mean in AMS-KV's plan; a guess, see `ams_budget`."""

Weights = Callable[[int], Sequence[Sequence[float]]]
"""Scale, from 0 -> weights [layer][head]."""


def hack_budget(asked: Budget, profile: AttentionProfile) -> Budget:
    """The same mean, structural heads getting more than contextual ones.

    That the two kinds have budgets of their own, the same at all scales, is HACK's
    (arXiv 2504.09261). How they are to each other is not known here: a contextual head gets half
    of the mean, and the structural ones share what that leaves over.

    Raises:
        UserError: the profile is another model's.
    """
    _check(asked, profile, "hack")
    structural = profile.structural
    many = sum(map(len, structural))
    others = profile.layers * profile.heads - many
    more = (1.0 + others * (1.0 - CONTEXTUAL) / many) if many and others else 1.0
    less = CONTEXTUAL if many and others else 1.0
    weights = [
        [more if head in layer else less for head in range(profile.heads)] for layer in structural
    ]
    return _by_head(asked, lambda scale: weights, 0.0, "HACK's two kinds of heads")


def hack_plus_budget(asked: Budget, profile: AttentionProfile) -> Budget:
    """The same mean, shared by how much a head relies on earlier scales at each scale.

    That reliance differs between kinds of heads, layers and scales, and decides the shares, is
    HACK++'s (arXiv 2606.08302). The measure is not known here: it is the attention that the head
    pays to earlier scales at the scale for which it keeps the tokens. Every head gets at least a
    quarter of the mean, which is a guess too.

    Raises:
        UserError: the profile is another model's, or has fewer scales.
    """
    _check(asked, profile, "hack-plus", every_scale=True)
    reliance = [[[1.0 - own for own in heads] for heads in row] for row in profile.own]
    return _by_head(
        asked, lambda scale: reliance[scale], LEAST_BY_RELIANCE, "by reliance on earlier scales"
    )


def adaptive_budget(asked: Budget, profile: AttentionProfile) -> Budget:
    """The same mean in every layer, shared among its heads by how far their attention spreads.

    Ada-KV (arXiv 2407.11550) gives a head as many tokens as it has among the highest scores of its
    layer, and at least a fifth of the mean, anew for every input. Here the bytes of a picture are
    known beforehand, and all pictures of a batch hold alike: heads share by the number of tokens
    that their attention comes to, 2 to the entropy, as measured once.

    Raises:
        UserError: as `hack_plus_budget`.
    """
    _check(asked, profile, "adakv", every_scale=True)
    spread = [[[2.0**bits for bits in heads] for heads in row] for row in profile.entropy]
    return _by_head(
        asked,
        lambda scale: spread[scale],
        LEAST_ADAPTIVE,
        "by the spread of each head's attention, layers alike",
        layers_alike=True,
    )


def ams_budget(asked: Budget, profile: AttentionProfile) -> Budget:
    """The same mean, layers whose keys change most from map to map getting most.

    AMS-KV (arXiv 2511.16047) tells cache-demanding layers by the similarity of keys and values
    between scales, and gives them more. By how much is not known here: every layer gets half of
    the mean, and the other half goes by the change of its keys.

    Raises:
        UserError: the profile is another model's.
    """
    _check(asked, profile, "ams-kv")
    change = [[max(value, 0.0)] for value in profile.layer_change]
    shared = _by_head(asked, lambda scale: change, LEAST_BY_CHANGE, "by how much keys change")
    return replace(shared, head_capacities=())


def _by_head(
    asked: Budget, weights: Weights, least: float, origin: str, *, layers_alike: bool = False
) -> Budget:
    """Capacities in proportion to weights, exactly at the mean wherever the history exceeds it.

    What a head cannot take, because it dropped tokens at an earlier scale, goes to the others:
    those of its layer where layers are alike.

    Args:
        least: what every head gets of the mean before weights count.
    """
    schedule, mean = asked.schedule, asked.mean
    heads = len(weights(0)[0])
    rows = [[0] * (asked.layers * heads)]
    for scale in range(1, len(schedule)):
        available = [held + schedule.tokens[scale - 1] for held in rows[-1]]
        history = schedule.before(scale)
        if history <= mean:
            rows.append([history] * len(available))
            continue
        flat = [weight for layer in weights(scale) for weight in layer]
        together = heads if layers_alike else len(flat)
        row: list[int] = []
        for at in range(0, len(flat), together):
            part = slice(at, at + together)
            shares = _proportional(mean, flat[part], least)
            row += fitted(shares, available[part], [range(together)])
        rows.append(row)
    by_head = tuple(
        tuple(tuple(row[at : at + heads]) for at in range(0, len(row), heads)) for row in rows
    )
    return replace(
        uniform(asked),
        capacities=tuple(tuple(max(layer) for layer in row) for row in by_head),
        head_capacities=by_head,
        origin=origin,
    )


def _proportional(mean: int, weights: Sequence[float], least: float) -> list[int]:
    """Whole numbers that average exactly `mean`, each at least `least` of it and beyond that in
    proportion to its weight; what does not divide goes to the largest remainders. None is below 1:
    the largest give way."""
    every = floor(least * mean)
    rest, total = (mean - every) * len(weights), sum(weights)
    wanted = [rest * weight / total for weight in weights] if total > 0 else [0.0] * len(weights)
    shares = [floor(share) for share in wanted]
    order = sorted(range(len(weights)), key=lambda i: (shares[i] - wanted[i], i))
    each, odd = divmod(rest - sum(shares), len(weights))
    for place, i in enumerate(order):
        shares[i] += every + each + (place < odd)
    for i, share in enumerate(shares):
        if share < 1:
            shares[shares.index(max(shares))] -= 1
            shares[i] = 1
    return shares


def _check(
    asked: Budget, profile: AttentionProfile, policy: str, *, every_scale: bool = False
) -> None:
    if profile.layers != asked.layers:
        raise UserError(
            f"the calibration is of {profile.layers} layers, the model has {asked.layers}",
            where=f"policy {policy}",
            rule="a calibration belongs to one model",
            fix="calibrate this model: scalekv calibrate",
        )
    if every_scale and profile.scales < len(asked.schedule):
        raise UserError(
            f"the calibration has {profile.scales} scales, this picture has {len(asked.schedule)}",
            where=f"policy {policy}",
            rule="every scale was measured",
            fix="calibrate the model at this size: scalekv calibrate",
        )
