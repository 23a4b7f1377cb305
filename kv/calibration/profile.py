"""What a calibration measured of every head at every scale, as policies read it that give heads or
layers budgets of their own. Arithmetic and JSON; knows no tensors and no policy. No torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import isfinite, log
from typing import Any

from scalekv.kv.errors import UserError

ByHead = tuple[tuple[tuple[float, ...], ...], ...]
"""[scale][layer][head], all from 0."""

_RULE = "the numbers that scalekv calibrate writes: NAME-attention.json"


@dataclass(frozen=True, eq=False)
class AttentionProfile:
    """Means over pictures and queries, by scale (the queries'), layer and head.

    Attributes:
        own: attention on the scale's own map; 1 less it is that on earlier scales.
        entropy: of a query's attention, in bits.
        variance: over the queries, of the attention that a token gets, summed over tokens.
        change: of keys from the map before to this one, 1 less their cosine.
    """

    own: ByHead
    entropy: ByHead
    variance: ByHead
    change: ByHead

    @property
    def scales(self) -> int:
        """How many scales were measured."""
        return len(self.own)

    @property
    def layers(self) -> int:
        """Layers of the model."""
        return len(self.own[0])

    @property
    def heads(self) -> int:
        """Heads of a layer."""
        return len(self.own[0][0])

    @cached_property
    def structural(self) -> tuple[frozenset[int], ...]:
        """The structural heads of each layer: those whose attention differs from query to query.

        HACK tells heads apart by the variance of attention (arXiv 2504.09261). Where it draws the
        line is not known here: it is drawn where the two classes' variances, logarithms of the
        mean over all scales but the first, are closest to their own means.
        """
        logs = {
            (layer, head): log(max(_over_scales(self.variance, layer, head), 1e-12))
            for layer in range(self.layers)
            for head in range(self.heads)
        }
        least = _line(sorted(logs.values()))
        return tuple(
            frozenset(head for head in range(self.heads) if logs[layer, head] >= least)
            for layer in range(self.layers)
        )

    @cached_property
    def layer_change(self) -> tuple[float, ...]:
        """How much the keys of each layer change from map to map: mean over heads and scales."""
        return tuple(
            sum(_over_scales(self.change, layer, head) for head in range(self.heads)) / self.heads
            for layer in range(self.layers)
        )


def _over_scales(measured: ByHead, layer: int, head: int) -> float:
    """The mean over all scales but the first, where there is one token to look at."""
    rows = measured[1:] or measured
    return sum(row[layer][head] for row in rows) / len(rows)


def _line(values: Sequence[float]) -> float:
    """The least value of the upper of two classes, of ascending values, that lie as close to their
    own means as two classes can."""

    def spread(part: Sequence[float]) -> float:
        mean = sum(part) / len(part)
        return sum((value - mean) ** 2 for value in part)

    cuts = range(1, len(values))
    if not cuts:
        return values[0]
    return values[min(cuts, key=lambda cut: spread(values[:cut]) + spread(values[cut:]))]


def read_profile(text: str, where: str = "attention file") -> AttentionProfile:
    """Reads a calibration's numbers.

    Raises:
        UserError: they are not, or an older program's that lacks some.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"not readable as JSON: {error}", where=where, rule=_RULE) from None
    if not isinstance(content, dict):
        raise UserError("the file is no JSON object", where=where, rule=_RULE)
    names = ("own_mass", "entropy_bits", "attention_variance", "key_change")
    for name in names:
        if name not in content:
            raise UserError(
                f"{name} is missing",
                where=where,
                rule=_RULE,
                fix="calibrate again: older programs did not measure it",
            )
    tables = [_by_head(content[name], name, where) for name in names]
    shapes = {(len(t), len(t[0]), len(t[0][0])) for t in tables}
    if len(shapes) > 1:
        raise UserError(
            f"tables of {len(shapes)} shapes",
            where=where,
            rule="as many scales, layers and heads in every table",
            fix="calibrate again",
        )
    return AttentionProfile(*tables)


def _by_head(value: Any, name: str, where: str) -> ByHead:
    """A table of numbers, at least one scale of one layer of one head, none ragged."""

    def number(entry: Any) -> float:
        if type(entry) not in (int, float) or not isfinite(entry):
            raise ValueError(f"{entry!r} is no number")
        return float(entry)

    try:
        table = tuple(tuple(tuple(number(x) for x in layer) for layer in scale) for scale in value)
        if not table or len({(len(s), *map(len, s)) for s in table}) != 1 or not table[0]:
            raise ValueError("rows of unequal length, or none")
        if len({len(layer) for layer in table[0]}) != 1 or not table[0][0]:
            raise ValueError("rows of unequal length, or none")
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{name} is no table: {error}",
            where=where,
            rule="numbers by scale, layer and head",
            fix="calibrate again",
        ) from None
    return table
