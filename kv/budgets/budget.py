"""How many tokens each layer may hold at each scale, and what people may ask for. Pure arithmetic:
knows no tensors, no files, no model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from scalekv.kv.budgets.drafters import Drafters as Drafters
from scalekv.kv.errors import UserError
from scalekv.kv.schedule import Schedule

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
        percent, nbytes: what was asked for where that was a share of the history, in percent, or
            bytes, of which the mean is what whole tokens come to; None: tokens were asked for.
        bound: when the mean is kept to: "moment", at every moment of a picture, or "scale", while
            each scale is generated, as in the published program; then more may be held between
            two scales (see `scalekv.kv.budgets.moments`).

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
    percent: Fraction | None = None
    nbytes: int | None = None

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
    if len(limits) != len(held):
        raise ValueError(f"limits of {len(limits)} heads, tokens of {len(held)}")
    return tuple(map(min, limits, [has + new for has in held]))


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
