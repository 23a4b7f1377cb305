"""Drafter layers by scale, in the forms that people may give them. Knows no budget, no model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from scalekv.kv.errors import UserError
from scalekv.kv.schedule import Schedule

Drafters = Sequence[int] | Sequence[Sequence[int]] | Mapping[int, Sequence[int]]
"""Which layers are drafters: layer numbers for every scale; or one sequence per scale; or a mapping
{scale number from 1: layers from that scale on} (scales before the first entry use the first)."""


def drafters_by_scale(
    drafters: Drafters, schedule: Schedule, layers: int, where: str = "drafters"
) -> tuple[tuple[int, ...], ...]:
    """The drafter layers of every scale, ascending.

    Raises:
        UserError: a layer that does not exist or is named twice, or a scale number below 1.
    """
    if isinstance(drafters, Mapping):
        if any(type(number) is not int or number < 1 for number in drafters):
            raise UserError(
                f"drafters for scales {', '.join(map(str, drafters))}",
                where=where,
                rule="scales are numbered from 1",
            )
        for row in drafters.values():
            _check_drafters(row, layers, where)
        first = sorted(drafters)
        rows = [
            drafters[max((n for n in first if n <= number), default=first[0])] if first else ()
            for number in range(1, len(schedule) + 1)
        ]
    elif any(not isinstance(entry, int) for entry in drafters):
        rows = [row for row in drafters if not isinstance(row, int)]
        if len(rows) != len(schedule) or len(rows) != len(drafters):
            raise UserError(
                f"drafters for {len(drafters)} scales, the schedule has {len(schedule)}",
                where=where,
                rule="one list for all scales, or one list per scale",
            )
    else:
        rows = [tuple(layer for layer in drafters if isinstance(layer, int))] * len(schedule)
    for row in rows:
        _check_drafters(row, layers, where)
    return tuple(tuple(sorted(row)) for row in rows)


def _check_drafters(row: Sequence[int], layers: int, where: str) -> None:
    wrong = [layer for layer in row if type(layer) is not int or not 0 <= layer < layers]
    if wrong:
        raise UserError(
            f"drafter {wrong[0]!r} is not a layer of this model",
            where=where,
            rule=f"layers are numbered 0 to {layers - 1}",
        )
    if len(set(row)) != len(row):
        raise UserError(
            f"a drafter is named twice in {list(row)}", where=where, rule="each layer once"
        )
