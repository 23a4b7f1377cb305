"""Placements of a model that take less memory, each slower than the one before it. Knows planners
alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from scalekv.configs.values import AUTO

if TYPE_CHECKING:
    from scalekv.infinity_patch.loading.placement import Placement
    from scalekv.infinity_patch.planning.planner import Planner

TEXT_FIRST = "prompts encoded first"
"""What no option says, as it changes nothing that anybody sees: see `Placement.text_first`."""

AUTOMATIC: tuple[tuple[str, dict[str, Any]], ...] = (
    ("", {}),
    (TEXT_FIRST, {"text_first": True}),
    ("--text-device cpu", {"text_device": "cpu"}),
    ("--weights int8", {"weights": "int8"}),
    (f"--weights int8, {TEXT_FIRST}", {"weights": "int8", "text_first": True}),
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

BY_OPTIONS = tuple(
    (options, changes) for options, changes in LIGHTER if "text_first" not in changes
)
"""Those that people can ask for."""


def lightened(planner: Planner, memory: int, *, texts_known: bool) -> tuple[Planner, str]:
    """The same, or the first of those whose placement is lighter in what nobody chose that a single
    picture fits with; and the options that it differs by, "" where it does not.

    How many pictures are wanted at once changes nothing: fewer of them is no less good.

    Args:
        texts_known: all texts that will be encoded are known before the model is read, and are few
            enough to be remembered.
    """
    for options, changes in AUTOMATIC:
        if _may_change(planner.placement, changes, texts_known):
            lighter = planner.placed(**changes) if changes else planner
            if lighter.footprint(1).needed <= memory:
                return lighter, options
    return planner, ""


def _may_change(placement: Placement, changes: Mapping[str, Any], texts_known: bool) -> bool:
    """Whether nobody chose otherwise."""
    if "text_first" in changes and not (texts_known and placement.keep_text_encoder is not True):
        return False
    return all(getattr(placement, name) == AUTO for name in changes if name != "text_first")
