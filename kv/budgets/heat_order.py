"""HeatKV's static rule: which heads keep which earlier scales, and the files that rank them. Pure
arithmetic (arXiv 2605.14877); knows no tensors and no model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from math import ceil

from scalekv.kv.budgets.budget import Budget
from scalekv.kv.errors import BudgetTooSmall, UserError
from scalekv.kv.schedule import Schedule

PROTECTED = 3  # the first scales, which no head ever drops: 21 tokens at 1:1

Kept = tuple[tuple[tuple[tuple[int, ...], ...], ...], ...]
"""[scale][layer][head]: the source scales kept, ascending, while that scale is generated."""


@dataclass(frozen=True)
class Order:
    """In which order heads lose a source scale: the one that later scales look at least first.

    Attributes:
        layers, heads: of the model it was made for.
        pairs: per source scale, from scale index 3 on, every (layer, head) once, first dropped
            first.

    Raises:
        UserError: a source scale does not rank every head of every layer exactly once.
    """

    layers: int
    heads: int
    pairs: tuple[tuple[tuple[int, int], ...], ...]

    def __post_init__(self) -> None:
        slots = self.layers * self.heads
        for source, ranked in enumerate(self.pairs, start=PROTECTED):
            where = f"order of source scale index {source}"
            rule = f"every head of every layer once: {self.layers} layers of {self.heads} heads"
            seen: set[tuple[int, int]] = set()
            for layer, head in ranked:
                if not (0 <= layer < self.layers and 0 <= head < self.heads):
                    raise UserError(
                        f"there is no head {head} in layer {layer}", where=where, rule=rule
                    )
                if (layer, head) in seen:
                    raise UserError(
                        f"head {head} of layer {layer} comes twice", where=where, rule=rule
                    )
                seen.add((layer, head))
            if len(ranked) != slots:
                raise UserError(
                    f"{len(ranked)} heads are ranked, not {slots}", where=where, rule=rule
                )


def read_order(text: str, where: str = "order file") -> Order:
    """Reads the published format: a JSON list over source scales, from scale index 3 on, of lists
    of [head, layer] pairs, first dropped first.

    Raises:
        UserError: no such list, or a source scale that does not rank every head exactly once.
    """
    rule = "a JSON list over source scales of lists of [head, layer] pairs, first dropped first"
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"not readable as JSON: {error}", where=where, rule=rule) from None
    if not isinstance(content, list) or not all(isinstance(row, list) and row for row in content):
        raise UserError("the file is no list of lists", where=where, rule=rule)
    if not content:
        raise UserError("no source scale is ranked", where=where, rule=rule)
    for source, row in enumerate(content, start=PROTECTED):
        for entry in row:
            if (
                not isinstance(entry, list)
                or len(entry) != 2
                or any(type(number) is not int or number < 0 for number in entry)
            ):
                raise UserError(
                    f"source scale index {source} ranks {entry!r}", where=where, rule=rule
                )
    try:
        return Order(
            layers=1 + max(layer for row in content for _, layer in row),
            heads=1 + max(head for row in content for head, _ in row),
            pairs=tuple(tuple((layer, head) for head, layer in row) for row in content),
        )
    except UserError as error:
        raise UserError(error.what, where=f"{where}, {error.where}", rule=error.rule) from None


def write_order(order: Order) -> str:
    """The published format, one source scale a line; the inverse of `read_order`."""
    rows = (
        json.dumps([[head, layer] for layer, head in row], separators=(",", ":"))
        for row in order.pairs
    )
    return "[\n" + ",\n".join(rows) + "\n]\n"


def order_from_mass(mass: Sequence[Sequence[Sequence[float]]]) -> Order:
    """Ranks heads by the attention they pay to each source scale, least first.

    Args:
        mass: [source scale][layer][head], from scale index 0 up to the last but one: the mean
            attention mass that later scales put on it (the paper's S-CAS). That of the first
            three, which are never dropped, is not looked at.

    Equal masses go by head, then layer, as in the published program.

    Raises:
        UserError: no scale but the protected ones, or rows of unequal length.
    """
    layers, heads = len(mass[0]) if mass else 0, len(mass[0][0]) if mass and mass[0] else 0
    if len(mass) <= PROTECTED or not heads:
        raise UserError(
            f"attention masses of {len(mass)} source scales",
            where="order",
            rule=f"the first {PROTECTED} scales are always kept, so there must be more",
        )
    pairs = []
    for source, rows in enumerate(mass[PROTECTED:], start=PROTECTED):
        ranked = [
            (value, head, layer) for layer, row in enumerate(rows) for head, value in enumerate(row)
        ]
        if any(value != value for value, _, _ in ranked):
            raise UserError(
                f"the attention mass on source scale index {source} is not a number", where="order"
            )
        pairs.append(tuple((layer, head) for _, head, layer in sorted(ranked)))
    return Order(layers, heads, tuple(pairs))


def drops(schedule: Schedule, slots: int, mean: int | Fraction) -> tuple[int, ...]:
    """How many of the `slots` (layer, head) pairs have dropped each source scale, by the scale that
    is being generated.

    With T tokens of history and P of the protected scales, the first ceil(slots (T - mean) /
    (T - P)) pairs of every source scale's order; none as long as T is at most the mean.

    Args:
        mean: tokens allowed per layer and head.

    Raises:
        BudgetTooSmall: less than the protected scales take.
    """
    protected = schedule.before(min(PROTECTED, len(schedule) - 1))
    if mean < protected:
        raise BudgetTooSmall(
            f"{float(mean):g} tokens per layer are less than the first {PROTECTED} scales take",
            where="policy heatkv",
            rule=f"it never drops the {protected} tokens of the first {PROTECTED} scales",
            fix=f"ask for at least {protected} tokens, --budget {protected}",
        )
    return tuple(
        ceil(slots * (tokens - mean) / Fraction(tokens - protected)) if tokens > mean else 0
        for tokens in map(schedule.before, range(len(schedule)))
    )


def kept_by_heat(order: Order, schedule: Schedule, mean: int | Fraction) -> Kept:
    """What is kept by the ranking alone, each drop taking effect when the layer is rewritten.

    Args:
        mean: tokens allowed per layer and head.

    Raises:
        UserError: `order` ranks too few source scales.
        BudgetTooSmall: `mean` is less than is always kept.
    """
    sources = range(PROTECTED, len(schedule) - 1)
    if len(order.pairs) < len(sources):
        raise UserError(
            f"the order ranks {len(order.pairs)} source scales, this picture has {len(sources)}",
            where="policy heatkv",
            rule=f"every scale but the first {PROTECTED} and the last is ranked",
            fix="calibrate the model at this size: scalekv calibrate",
        )
    kept = []
    for scale, dropped in enumerate(drops(schedule, order.layers * order.heads, mean)):
        gone = {
            (source, layer, head)
            for source in sources[: max(scale - PROTECTED, 0)]
            for layer, head in order.pairs[source - PROTECTED][:dropped]
        }
        kept.append(
            tuple(
                tuple(
                    tuple(source for source in range(scale) if (source, layer, head) not in gone)
                    for head in range(order.heads)
                )
                for layer in range(order.layers)
            )
        )
    return tuple(kept)


@lru_cache(maxsize=8)  # a budget is planned, and then kept to, for every picture anew
def keeps(order: Order, schedule: Schedule, mean: int | Fraction) -> Kept:
    """What each head really keeps, so that no moment sees more than the mean.

    Layers are rewritten one after another: while the first have taken up a new map, the last still
    hold what they are about to drop. As many of those drops as needed are brought forward to before
    the layer attends at that scale, the last layer's first, in a layer the newest source scale's
    first, then in ranked order.

    Args and errors: as `kept_by_heat`.
    """
    kept = kept_by_heat(order, schedule, mean)
    rank = [{pair: place for place, pair in enumerate(row)} for row in order.pairs]
    most = mean * order.layers * order.heads
    held = []
    for scale in range(len(schedule) - 1):
        now, then = kept[scale], kept[scale + 1]
        pending = sorted(
            (-layer, -source, rank[source - PROTECTED][layer, head], head)
            for layer, heads in enumerate(now)
            for head, sources in enumerate(heads)
            for source in sources
            if source not in then[layer][head]
        )
        excess = _fullest(schedule, now, then) - most
        early = set()
        for minus_layer, minus_source, _, head in pending:
            if excess <= 0:
                break
            early.add((-minus_source, -minus_layer, head))
            excess -= schedule.tokens[-minus_source]
        held.append(
            tuple(
                tuple(
                    tuple(source for source in sources if (source, layer, head) not in early)
                    for head, sources in enumerate(heads)
                )
                for layer, heads in enumerate(now)
            )
        )
    return (*held, kept[-1])


def heat_budget(asked: Budget, order: Order) -> Budget:
    """The same mean with each head's capacity being what it `keeps`.

    Raises:
        UserError: `order` was made for another number of layers, or as `keeps`.
    """
    if order.layers != asked.layers:
        raise UserError(
            f"the order ranks {order.layers} layers, the model has {asked.layers}",
            where="policy heatkv",
            rule="an order belongs to one model",
            fix="calibrate this model: scalekv calibrate",
        )
    schedule = asked.schedule
    by_head = tuple(
        tuple(
            tuple(sum(schedule.tokens[source] for source in sources) for sources in heads)
            for heads in row
        )
        for row in keeps(order, schedule, asked.mean)
    )
    return Budget(
        schedule=schedule,
        layers=asked.layers,
        capacities=tuple(tuple(max(heads) for heads in row) for row in by_head),
        mean=asked.mean,
        window=asked.window,
        label=asked.label,
        origin="HeatKV's rule (arXiv 2605.14877): whole source scales, by head",
        head_capacities=by_head,
    )


def _fullest(
    schedule: Schedule,
    now: Sequence[Sequence[Sequence[int]]],
    then: Sequence[Sequence[Sequence[int]]],
) -> int:
    """The most tokens of all heads while the layers go from `now` to `then`, one after another."""

    def tokens(heads: Sequence[Sequence[int]]) -> int:
        return sum(schedule.tokens[source] for sources in heads for source in sources)

    total = peak = sum(map(tokens, now))
    for old, new in zip(now, then, strict=True):
        total += tokens(new) - tokens(old)
        peak = max(peak, total)
    return peak
