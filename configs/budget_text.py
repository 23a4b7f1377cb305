"""A budget as the text of a budget file, which `scalekv.configs.budgets` reads. No torch."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping

import yaml

from scalekv.kv.budget import BOUNDS, BudgetSpec
from scalekv.kv.drafters import Drafters

_WIDTH = 100


def budget_text(spec: BudgetSpec, comment: str = "") -> str:
    """The YAML of a budget file that reads back as `spec` but for its name, which is the file's.

    Args:
        comment: put above, one line.
    """
    lines = [f"# {comment}"] if comment else []
    lines += [_line("model", spec.model), _line("layers", spec.layers)]
    if not _none(spec.drafters):
        lines.append(_line("drafters", _plain(spec.drafters)))
    if spec.mean is not None:
        lines.append(_line("mean", spec.mean))
    if spec.percent is not None:
        whole = spec.percent.denominator == 1
        lines.append(_line("percent", int(spec.percent) if whole else float(spec.percent)))
    if spec.schedule is not None:
        lines.append(_line("schedule", str(spec.schedule)))
    if spec.capacities is not None:
        lines += ["capacities:"]
        lines += [f"  {number}: {list(row)}" for number, row in spec.capacities.items()]
    lines.append(_line("window", spec.window))
    if spec.bound != BOUNDS[0]:
        lines.append(_line("bound", spec.bound))
    lines.append("provenance: >-")
    lines += textwrap.wrap(
        spec.provenance,
        _WIDTH,
        initial_indent="  ",
        subsequent_indent="  ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    return "\n".join(lines) + "\n"


def drafters_from(rows: Mapping[int, tuple[int, ...]]) -> Drafters:
    """The drafters of single scales, as briefly as a budget file can say it.

    Args:
        rows: {scale from 0: its drafters}, of consecutive scales up to the last.

    Returns:
        Layers for every scale where they are always the same, else {scale number from 1: layers
        from that scale on}.
    """
    changes: dict[int, tuple[int, ...]] = {}
    for scale in sorted(rows):
        if not changes or tuple(changes.values())[-1] != rows[scale]:
            changes[scale + 1] = rows[scale]
    return changes if len(changes) > 1 else next(iter(changes.values()), ())


def _none(drafters: Drafters) -> bool:
    return not isinstance(drafters, Mapping) and not drafters


def _plain(drafters: Drafters) -> object:
    if isinstance(drafters, Mapping):
        return {number: list(row) for number, row in drafters.items()}
    return [row if isinstance(row, int) else list(row) for row in drafters]


def _line(key: str, value: object) -> str:
    """One line of YAML; collections within brackets."""
    flow = isinstance(value, list | dict)
    text = yaml.safe_dump(value, default_flow_style=flow, width=10**6, allow_unicode=True)
    return f"{key}: " + text.removesuffix("\n").removesuffix("\n...")
