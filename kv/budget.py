"""How many tokens each layer may hold at each scale, and what people may ask for. Pure arithmetic:
knows no tensors, no files, no model."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import floor

from scalekv.kv.allotment import Linear, allot, allot_rest
from scalekv.kv.drafters import Drafters as Drafters
from scalekv.kv.drafters import drafters_by_scale
from scalekv.kv.errors import UserError
from scalekv.kv.schedule import Schedule
from scalekv.kv.sizes import parse_size, size_text

BOUNDS = ("moment", "scale")
WINDOW = 16  # observation window in tokens; arXiv 2505.19602

FULL = "full"
"""The budget that asks for nothing to be dropped, and the policy that drops nothing."""

BytesOf = Callable[[int], int]
"""Bytes of k and v that a picture's caches take when every head of every layer holds that many
tokens; never less for more tokens."""

WAYS = (
    "full, a percentage (10%), mean tokens per layer (650), bytes (1.5GiB), a name or a .yaml file"
)
"""The ways to ask for a budget, for messages."""


@dataclass(frozen=True)
class Budget:
    """The most tokens each layer may hold, per sequence and head, while each scale is generated.

    Attributes:
        schedule: the scales it is for.
        layers: number of layers.
        capacities: [scale][layer], scales from 0; at every scale the layers average at most the
            mean. The capacities made here are the history as long as that is no longer than the
            mean (so 0 at scale 0), and average exactly the mean at every later scale.
        mean: tokens per layer that are paid for.
        window: the most tokens of the newest map that observe, and are kept, when selecting.
        label: as it was asked for, such as "10%".
        drafters: per scale, the layers that were given more.
        origin: one line saying where drafters or capacities come from.
        head_capacities: [scale][layer][head]; empty: all heads of a layer alike. Where given, a
            head may hold nothing, `capacities` says what the head of most may hold, and it is all
            heads of all layers that average at most the mean.
        bound: when the mean is kept to: "moment", at every moment of a picture, or "scale", while
            each scale is generated, as in the published program; then more may be held between
            two scales (see `scalekv.kv.transitions`).

    Raises:
        UserError: wrong shape, a capacity below 1 (a head's: below 0) or above the history, or
            more than the mean.
    """

    schedule: Schedule
    layers: int
    capacities: tuple[tuple[int, ...], ...]
    mean: int
    window: int = WINDOW
    label: str = ""
    drafters: tuple[tuple[int, ...], ...] = ()
    origin: str = ""
    head_capacities: tuple[tuple[tuple[int, ...], ...], ...] = ()
    bound: str = "moment"

    def __post_init__(self) -> None:
        where = f"budget {self.label}".strip()
        _check_counts(where, layers=self.layers, mean=self.mean, window=self.window)
        for rows in (self.capacities, self.head_capacities or self.capacities):
            if len(rows) != len(self.schedule):
                raise UserError(
                    f"capacities for {len(rows)} scales, the schedule has {len(self.schedule)}",
                    where=where,
                    rule="one row of capacities per scale",
                )
        for scale, row in enumerate(self.capacities):
            at = f"{where}, scale {scale + 1}"
            if self.head_capacities:
                self._check_heads(scale, at)
            else:
                self._check_row(row, self.schedule.before(scale), at)

    def _check_row(self, row: tuple[int, ...], history: int, where: str) -> None:
        _check_length(row, self.layers, where)
        for layer, capacity in enumerate(row):
            if not min(1, history) <= capacity <= history:
                raise UserError(
                    f"capacity {capacity} for layer {layer}",
                    where=where,
                    rule=f"at least 1 and at most the {history} tokens that exist by then",
                )
        if sum(row) > self.mean * self.layers:
            raise UserError(
                f"capacities average {sum(row) / self.layers:g} per layer, more than {self.mean}",
                where=where,
                rule="the layers average at most the mean",
            )

    def _check_heads(self, scale: int, where: str) -> None:
        rows, history = self.head_capacities[scale], self.schedule.before(scale)
        for row in (rows, self.capacities[scale]):
            _check_length(row, self.layers, where)
        for layer, row in enumerate(rows):
            if len(row) != self.heads or not row:
                raise UserError(
                    f"capacities for {len(row)} heads in layer {layer}, {self.heads} elsewhere",
                    where=where,
                    rule="one capacity per head, as many heads in every layer",
                )
            for head, capacity in enumerate(row):
                if not 0 <= capacity <= history:
                    raise UserError(
                        f"capacity {capacity} for head {head} of layer {layer}",
                        where=where,
                        rule=f"at least 0 and at most the {history} tokens that exist by then",
                    )
            if max(row) != self.capacities[scale][layer]:
                raise UserError(
                    f"capacity {self.capacities[scale][layer]} for layer {layer}, "
                    f"{max(row)} for its largest head",
                    where=where,
                    rule="a layer's capacity is that of the head that may hold most",
                )
        heads = self.layers * self.heads
        if (total := sum(map(sum, rows))) > self.mean * heads:
            raise UserError(
                f"capacities average {total / heads:g} per head, more than {self.mean}",
                where=where,
                rule="the heads of all layers average at most the mean",
            )

    @property
    def heads(self) -> int:
        """Heads per layer that have capacities of their own; 0: all heads alike."""
        return len(self.head_capacities[0][0]) if self.head_capacities else 0

    def capacity(self, scale: int, layer: int) -> int:
        """The most tokens any head of `layer` may hold while `scale` (from 0) is generated."""
        return self.capacities[scale][layer]

    def limits(self, scale: int, layer: int, heads: int) -> tuple[int, ...]:
        """The most tokens each of the layer's `heads` may hold while `scale` is generated.

        Raises:
            UserError: the budget was made for another number of heads.
        """
        if not self.head_capacities:
            return (self.capacities[scale][layer],) * heads
        if heads != self.heads:
            raise UserError(
                f"made for {self.heads} heads, the model has {heads}",
                where=f"budget {self.label}".strip(),
                rule="a budget by head fits models of as many heads",
                fix="ask for a percentage, or for a budget made for this model",
            )
        return self.head_capacities[scale][layer]

    @property
    def evicts(self) -> bool:
        """Whether any token is ever dropped at this schedule."""
        return any(
            capacity < self.schedule.before(scale)
            for scale, row in enumerate(self.capacities)
            for layer, most in enumerate(row)
            for capacity in (
                self.head_capacities[scale][layer] if self.head_capacities else (most,)
            )
        )

    def held_by_head(self, scale: int, layer: int, heads: int) -> tuple[int, ...]:
        """Tokens that each of the layer's `heads` holds while `scale` is generated, by a policy
        that fills its capacities: less than the capacity where a head dropped tokens earlier.

        Raises:
            UserError: as `limits`.
        """
        held = (0,) * heads
        for k in range(1, scale + 1):
            new = self.schedule.tokens[k - 1]
            limits = self.limits(k, layer, heads)
            held = filled(limits, held, new)
        return held

    def held_tokens(self, scale: int, layer: int) -> int:
        """The same for the head of `layer` that holds most."""
        return max(self.held_by_head(scale, layer, self.heads or 1))


def filled(limits: Sequence[int], held: Sequence[int], new: int) -> tuple[int, ...]:
    """Tokens of each head once `new` have come, under a policy that fills its limits."""
    return tuple(min(most, has + new) for most, has in zip(limits, held, strict=True))


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
    if match := re.fullmatch(r"([+-]?[\d.,]+)\s*([kmgt]i?b?|b|bytes?)", label, re.IGNORECASE):
        return BudgetRequest(label, nbytes=parse_size(match[1], match[2], where))
    if not label or label.endswith("%"):
        raise UserError(f"cannot read the budget {label!r}", where=where, rule=WAYS)
    return BudgetRequest(label, name=label)


def percent_tokens(schedule: Schedule, percent: Fraction | int) -> int:
    """floor(percent / 100 of the history tokens), exactly; 0 only where there is no history.

    Raises:
        UserError: that is less than one token.
    """
    mean = floor(Fraction(percent) * schedule.history / 100)
    if mean < 1 and schedule.history:
        least = Fraction(100, schedule.history)
        raise UserError(
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
        UserError: not one token fits.
    """
    if bytes_of(1) > nbytes:
        raise UserError(
            f"{label or size_text(nbytes)} is less than one token in every layer takes",
            where="budget",
            rule=f"a layer holds at least 1 token; in all layers that is {bytes_of(1)} bytes here",
            fix=f"ask for at least {size_text(bytes_of(1))}, or use a smaller batch or dtype",
        )
    # The key is monotonous: from some number of tokens on it is True.
    tokens = range(1, max(schedule.history, 1) + 1)
    return bisect_left(tokens, True, key=lambda mean: bytes_of(mean) > nbytes)


def generate(
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
) -> Budget:
    """Turns what was asked for, or what a file says, into capacities.

    Args:
        drafters: for a request, the model's drafters (None: none, a uniform budget). For a file,
            None takes the file's own, anything else replaces them.
        origin: where `drafters` come from, one line.
        bytes_of: needed for a request in bytes.

    Raises:
        UserError: made for another depth or schedule, or capacities that break `Budget`'s rules.
    """
    if isinstance(asked, BudgetSpec):
        return _resolve_spec(asked, schedule, layers, drafters, origin)
    assert asked.name is None, f"named budget {asked.name} must be read before it is resolved"
    if asked.nbytes is not None:
        assert bytes_of is not None, f"{asked.label} needs to know what a token takes"
        mean = fitting_mean(schedule, asked.nbytes, bytes_of, asked.label)
    else:
        percent = Fraction(100) if asked.full else asked.percent
        mean = _mean_tokens(schedule, percent, asked.mean)
    return generate(schedule, layers, drafters or (), mean, label=asked.label, origin=origin)


def _resolve_spec(
    spec: BudgetSpec, schedule: Schedule, layers: int, drafters: Drafters | None, origin: str
) -> Budget:
    where = f"budget {spec.name}"
    if spec.layers != layers:
        raise UserError(
            f"made for {spec.layers} layers, the model has {layers}",
            where=where,
            rule="a budget fits models of its own depth",
            fix="ask for a percentage, or for a budget made for this model",
        )
    if spec.schedule is not None and spec.schedule != schedule:
        raise UserError(
            f"made for the schedule {spec.schedule}, this picture has {schedule}",
            where=where,
            rule="a budget with its own schedule fits no other",
            fix="ask for a percentage, or for a budget without a schedule",
        )
    if spec.capacities is None:
        mean = _mean_tokens(schedule, spec.percent, spec.mean)
        if drafters is None:
            drafters, origin = spec.drafters, spec.provenance
        if spec.linear is not None:
            origin = f"{origin}; {spec.linear}".removeprefix("; ")
        made = generate(
            schedule,
            layers,
            drafters,
            mean,
            spec.window,
            label=spec.name,
            origin=origin,
            linear=spec.linear,
        )
        return replace(made, bound=spec.bound)
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
    if beyond := [number for number in spec.capacities if not 1 <= number <= len(schedule)]:
        raise UserError(
            f"capacities for scale {beyond[0]}, the schedule has {len(schedule)}",
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


def _check_length(row: Sequence[object], layers: int, where: str) -> None:
    if len(row) != layers:
        raise UserError(
            f"{len(row)} capacities for {layers} layers",
            where=where,
            rule="one capacity per layer",
        )


def _check_counts(where: str, **counts: int) -> None:
    for name, count in counts.items():
        if type(count) is not int or count < 1:
            raise UserError(
                f"{name} is {count!r}", where=where, rule=f"{name} is a whole number, at least 1"
            )
