"""Calls that do not belong to the picture being generated, and why they are refused. Knows scales
and schedules; no tensors."""

from __future__ import annotations

from scalekv.kv.errors import UserError
from scalekv.kv.schedule import Schedule

AGAIN = "start the picture again from its first scale"


def check_turn(layer: int, scale: int, due: int | None) -> None:
    """Refuses a scale that is not the layer's next one.

    Args:
        layer, scale: from 0.
        due: the next scale of the layer, from 0; None: there is no picture yet.

    Raises:
        UserError: another scale is due.
    """
    if scale != due:
        raise UserError(
            f"scale {scale + 1} came when scale {(due or 0) + 1} was due",
            where=f"layer {layer}",
            rule="every layer goes through the scales of a picture in order",
            fix=AGAIN,
        )


def check_held(layer: int, scale: int, begun: bool) -> None:
    """Refuses to go on with a layer whose cache was reset.

    Raises:
        UserError: it was, so that `begun` is False.
    """
    if not begun:
        raise UserError(
            "the layer's cache was reset in the middle of a picture",
            where=f"layer {layer}, scale {scale + 1}",
            rule="every layer goes through all scales of a picture",
            fix=AGAIN,
        )


def check_same_schedule(layer: int, scale: int, now: Schedule, before: Schedule | None) -> None:
    """Refuses another schedule than the picture's.

    Raises:
        UserError: they differ.
    """
    if now != before:
        raise UserError(
            f"the schedule changed from {before} to {now}",
            where=f"layer {layer}, scale {scale + 1}",
            rule="one schedule per picture",
            fix=AGAIN,
        )
