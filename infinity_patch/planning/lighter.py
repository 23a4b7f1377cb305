"""Placements of a model that take less memory, each slower than the one before it. Knows planners
alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scalekv.configs.values import AUTO

if TYPE_CHECKING:
    from scalekv.infinity_patch.planning.planner import Planner

AUTOMATIC: tuple[tuple[str, dict[str, Any]], ...] = (
    ("", {}),
    ("--text-device cpu", {"text_device": "cpu"}),
    ("--weights int8", {"weights": "int8"}),
    ("--weights int8 --text-device cpu", {"weights": "int8", "text_device": "cpu"}),
)
"""What is taken without being asked for where nothing before it fits."""

LIGHTER = (
    *AUTOMATIC,
    ("--offload --text-device cpu", {"offload": True, "text_device": "cpu"}),
    (
        "--weights int8 --offload --text-device cpu",
        {"weights": "int8", "offload": True, "text_device": "cpu"},
    ),
)
"""All that there are, as options and as fields of a placement."""


def lightened(planner: Planner, memory: int) -> tuple[Planner, str]:
    """The same, or the first of those whose placement is lighter in what nobody chose that a single
    picture fits with; and the options that it differs by, "" where it does not.

    How many pictures are wanted at once changes nothing: fewer of them is no less good.
    """
    for options, changes in AUTOMATIC:
        if all(getattr(planner.placement, name) == AUTO for name in changes):
            lighter = planner.placed(**changes) if changes else planner
            if lighter.footprint(1).needed <= memory:
                return lighter, options
    return planner, ""
