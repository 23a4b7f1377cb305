"""Whether a call belongs to the picture that is being generated. Knows scales; no tensors."""

from __future__ import annotations

from scalekv.kv.errors import UserError
from scalekv.kv.schedule import Schedule

_AGAIN = "start the picture again from its first scale"


def check_turn(
    layer: int, scale: int, due: int | None, given: Schedule, schedule: Schedule, *, filled: bool
) -> None:
    """Refuses a call that does not.

    Args:
        due: the scale that this layer comes to next; None: no picture has begun.
        given: the call's schedule.
        schedule: the picture's.
        filled: whether the layer still holds what the picture left in it.

    Raises:
        UserError: scales out of order, a cache that was reset, or another schedule.
    """
    if due is None or scale != due:
        raise UserError(
            f"scale {scale + 1} came when scale {(due or 0) + 1} was due",
            where=f"layer {layer}",
            rule="every layer goes through the scales of a picture in order",
            fix=_AGAIN,
        )
    if not filled:
        raise UserError(
            "the layer's cache was reset in the middle of a picture",
            where=f"layer {layer}, scale {scale + 1}",
            rule="every layer goes through all scales of a picture",
            fix=_AGAIN,
        )
    if given != schedule:
        raise UserError(
            f"the schedule changed from {schedule} to {given}",
            where=f"layer {layer}, scale {scale + 1}",
            rule="one schedule per picture",
            fix=_AGAIN,
        )
