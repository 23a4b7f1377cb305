"""Requests for a budget, and their capacities on a schedule. No model, no torch."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from math import floor

from scalekv.kv.budgets.budget import FULL, WAYS, WINDOW, Budget, BytesOf, _check_counts
from scalekv.kv.budgets.drafters import Drafters as Drafters
from scalekv.kv.budgets.drafters import drafters_by_scale
from scalekv.kv.budgets.shares import Linear, allot, allot_rest
from scalekv.kv.errors import BudgetTooSmall, UserError
from scalekv.kv.schedule import Schedule
from scalekv.kv.sizes import SIZE, parse_size, size_text


@dataclass(frozen=True)
class BudgetRequest:
    """What a person asked for; exactly one of all but the label is set.

    Attributes:
        label: as typed.
        full: nothing is to be dropped.
        percent: of the history tokens of the schedule, above 0 and at most 100.
        mean: tokens per layer.
        nbytes: of k and v, all layers together, at any moment.
        name: a named budget or the path of a budget file, to be read elsewhere.
    """

    label: str
    full: bool = False
    percent: Fraction | None = None
    mean: int | None = None
    nbytes: int | None = None
    name: str | None = None


@dataclass(frozen=True)
class BudgetSpec:
    """What a budget file says.

    Attributes:
        name: what it is called, for labels and messages.
        model: the preset it was made for.
        layers: that model's layers.
        drafters: see `Drafters`.
        mean, percent, capacities: exactly one way to say how much: tokens per layer; percent of
            the history; or mean together with {scale number from 1: capacity of each layer}.
        schedule: the only schedule it is for; needed with capacities.
        linear: how drafters and others share, instead of the released budgets' rule; not with
            capacities.
        window, bound: as in `Budget`.
        provenance: where it comes from, one line.
    """

    name: str
    model: str
    layers: int
    drafters: Drafters = ()
    mean: int | None = None
    percent: Fraction | None = None
    capacities: Mapping[int, tuple[int, ...]] | None = None
    schedule: Schedule | None = None
    linear: Linear | None = None
    window: int = WINDOW
    bound: str = "moment"
    provenance: str = ""


BudgetLike = str | int | Budget | BudgetSpec | BudgetRequest


def parse_budget(text: str | int) -> BudgetRequest:
    """Reads "full", "10%", "650" (mean tokens per layer), "1.5GiB", or a name or path.

    Raises:
        UserError: empty, or a number, percentage or size out of range.
    """
    label = str(text).strip()
    where = f"budget {label!r}"
    if label == FULL:
        return BudgetRequest(label, full=True)
    if match := re.fullmatch(r"([+-]?[\d.,]+)\s*%", label):
        percent = _decimal(match[1])
        if percent is None or not 0 < percent <= 100:
            raise UserError(
                f"{label} is not a share of the history",
                where=where,
                rule="a percentage is above 0 and at most 100, such as 10% or 12.5%",
            )
        return BudgetRequest(label, percent=percent)
    if re.fullmatch(r"[+-]?[\d.,]+", label):
        number = _decimal(label)
        if number is None or number.denominator != 1 or number < 1:
            raise UserError(
                f"{label} is not a number of tokens",
                where=where,
                rule="tokens per layer are a whole number of at least 1",
            )
        return BudgetRequest(label, mean=int(number))
    if SIZE.fullmatch(label):
        return BudgetRequest(label, nbytes=parse_size(label, where))
    if not label or label.endswith("%"):
        raise UserError(f"cannot read the budget {label!r}", where=where, rule=WAYS)
    return BudgetRequest(label, name=label)


def percent_tokens(schedule: Schedule, percent: Fraction | int) -> int:
    """floor(percent / 100 of the history tokens), exactly; 0 only where there is no history.

    Raises:
        BudgetTooSmall: that is less than one token.
    """
    mean = floor(Fraction(percent) * schedule.history / 100)
    if mean < 1 and schedule.history:
        least = Fraction(100, schedule.history)
        raise BudgetTooSmall(
            f"{float(percent):g}% of {schedule.history} history tokens is less than one token",
            where="budget",
            rule="a layer holds at least 1 token",
            fix=f"ask for at least {floor(least * 100 + 1) / 100:g}%",
        )
    return mean


def fitting_mean(schedule: Schedule, nbytes: int, bytes_of: BytesOf, label: str = "") -> int:
    """The most tokens per layer with which the caches take no more than `nbytes`; no more than the
    history, where nothing is dropped.

    Raises:
        BudgetTooSmall: not one token fits.
    """
    if bytes_of(1) > nbytes:
        raise BudgetTooSmall(
            f"{label or size_text(nbytes)} is less than one token in every layer takes",
            where="budget",
            rule=f"a layer holds at least 1 token; in all layers that is {bytes_of(1)} bytes here",
            fix=f"ask for at least {size_text(bytes_of(1))}, or use a smaller batch or dtype",
        )
    # The key is monotonous: from some number of tokens on it is True.
    tokens = range(1, max(schedule.history, 1) + 1)
    return bisect_left(tokens, True, key=lambda mean: bytes_of(mean) > nbytes)


def capacities_for(
    schedule: Schedule,
    layers: int,
    drafters: Drafters,
    mean: int,
    window: int = WINDOW,
    *,
    label: str = "",
    origin: str = "",
    linear: Linear | None = None,
) -> Budget:
    """Capacities for any schedule, depth and mean: the rule behind the released budgets, or the
    paper's linear one.

    Drafters share what the others give up; no drafters means the mean for every layer. What a
    layer cannot use, because it dropped tokens at an earlier scale, goes to the others, so every
    capacity can be filled.

    Args:
        mean: tokens per layer, at least 1; nothing is dropped where the history is no longer.

    Raises:
        UserError: a number below 1, drafters that are not layers, or a linear rule that asks for
            more than the mean or, in the end, for less than the window.
    """
    where = f"budget {label}".strip()
    _check_counts(where, layers=layers, mean=mean, window=window)
    by_scale = drafters_by_scale(drafters, schedule, layers)
    shares = {} if linear is None else linear.shares(schedule, mean, window, where)
    capacities = [(0,) * layers]
    for scale in range(1, len(schedule)):
        history = schedule.before(scale)
        available = [held + schedule.tokens[scale - 1] for held in capacities[-1]]
        if history <= mean:
            capacities.append((history,) * layers)
        elif scale in shares:
            capacities.append(allot_rest(available, by_scale[scale], mean, shares[scale]))
        else:
            capacities.append(allot(available, by_scale[scale], mean, window))
    return Budget(
        schedule=schedule,
        layers=layers,
        capacities=tuple(capacities),
        mean=mean,
        window=window,
        label=label or str(mean),
        drafters=by_scale,
        origin=origin or ("no drafters: uniform" if not any(by_scale) else "drafters as given"),
    )


def resolve(
    asked: BudgetRequest | BudgetSpec,
    schedule: Schedule,
    layers: int,
    drafters: Drafters | None = None,
    *,
    origin: str = "",
    bytes_of: BytesOf | None = None,
    picture: Schedule | None = None,
) -> Budget:
    """Turns what was asked for, or what a file says, into capacities.

    Args:
        drafters: for a request, the model's drafters (None: none, a uniform budget). For a file,
            None takes the file's own, anything else replaces them.
        origin: where `drafters` come from, one line.
        bytes_of: needed for a request in bytes.
        picture: all scales of the picture, whose history a percentage is of, where `schedule` is
            the first of them; None: `schedule`.

    Raises:
        UserError: made for another depth or schedule, or capacities that break `Budget`'s rules.
    """
    picture = picture or schedule
    if isinstance(asked, BudgetSpec):
        return _resolve_spec(asked, schedule, layers, drafters, origin, picture)
    assert asked.name is None, f"named budget {asked.name} must be read before it is resolved"
    if asked.nbytes is not None:
        assert bytes_of is not None, f"{asked.label} needs to know what a token takes"
        mean = fitting_mean(schedule, asked.nbytes, bytes_of, asked.label)
    else:
        percent = Fraction(100) if asked.full else asked.percent
        mean = _mean_tokens(picture, percent, asked.mean)
    allotted = capacities_for(
        schedule, layers, drafters or (), mean, label=asked.label, origin=origin
    )
    percent = _percent_of(schedule, asked.percent, picture)
    return replace(allotted, percent=percent, nbytes=asked.nbytes)


def _resolve_spec(
    spec: BudgetSpec,
    schedule: Schedule,
    layers: int,
    drafters: Drafters | None,
    origin: str,
    picture: Schedule,
) -> Budget:
    where = f"budget {spec.name}"
    if spec.layers != layers:
        raise UserError(
            f"made for {spec.layers} layers, the model has {layers}",
            where=where,
            rule="a budget fits models of its own depth",
            fix="ask for a percentage, or for a budget made for this model",
        )
    if spec.schedule is not None and spec.schedule != picture:
        raise UserError(
            f"made for the schedule {spec.schedule}, this picture has {picture}",
            where=where,
            rule="a budget with its own schedule fits no other",
            fix="ask for a percentage, or for a budget without a schedule",
        )
    if spec.capacities is None:
        mean = _mean_tokens(picture, spec.percent, spec.mean)
        if drafters is None:
            drafters, origin = spec.drafters, spec.provenance
        if spec.linear is not None:
            origin = f"{origin}; {spec.linear}".removeprefix("; ")
        budget = capacities_for(
            schedule,
            layers,
            drafters,
            mean,
            spec.window,
            label=spec.name,
            origin=origin,
            linear=spec.linear,
        )
        percent = _percent_of(schedule, spec.percent, picture)
        return replace(budget, bound=spec.bound, percent=percent)
    if drafters is not None:
        raise UserError(
            "drafters given for a budget that lists its capacities",
            where=where,
            fix="leave the drafters out, or state the budget by its mean",
        )
    assert spec.mean is not None, spec
    rows = [
        spec.capacities.get(scale + 1, (schedule.before(scale),) * layers)
        for scale in range(len(schedule))
    ]
    if beyond := [number for number in spec.capacities if not 1 <= number <= len(picture)]:
        raise UserError(
            f"capacities for scale {beyond[0]}, the schedule has {len(picture)}",
            where=where,
            rule="scales are numbered from 1",
        )
    return Budget(
        schedule=schedule,
        layers=layers,
        capacities=tuple(rows),
        mean=spec.mean,
        window=spec.window,
        label=spec.name,
        drafters=drafters_by_scale(spec.drafters, schedule, layers, where),
        origin=spec.provenance,
        bound=spec.bound,
    )


def _percent_of(schedule: Schedule, percent: Fraction | None, picture: Schedule) -> Fraction | None:
    """A percentage of a picture's history as one of its first scales'; all of it at most."""
    if percent is None or schedule == picture or not schedule.history:
        return percent
    return min(percent * picture.history / schedule.history, Fraction(100))


def _mean_tokens(schedule: Schedule, percent: Fraction | None, mean: int | None) -> int:
    if percent is not None:
        # A picture of a single scale has no history; any mean then holds all of it.
        return max(percent_tokens(schedule, percent), 1)
    assert mean is not None, "neither a percentage nor a mean"
    return mean


def _decimal(text: str) -> Fraction | None:
    try:
        return Fraction(text)
    except ValueError:
        return None
