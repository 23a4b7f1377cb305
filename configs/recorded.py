"""What of attention is to be written down beside a picture, as people say it. No torch."""

from __future__ import annotations

import re
from dataclasses import dataclass

from scalekv.configs.values import Unreadable

FORM = "qkv[:layers=N,N-N][:scales=N,N-N]"
_RULE = f"{FORM}: layers from 0, scales from 1, each a number or a range"
_FIX = "qkv, or qkv:layers=0,4:scales=5-7"


@dataclass(frozen=True)
class AttentionChoice:
    """Which layers, from 0, and which scales, from 0, are recorded; None: all of them."""

    layers: tuple[int, ...] | None = None
    scales: tuple[int, ...] | None = None

    def of(self, layers: int, scales: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The layers and scales of a model and a schedule that have so many.

        Raises:
            ValueError: some that they do not have; the message says which.
        """
        for what, chosen, count, first in (
            ("layer", self.layers, layers, 0),
            ("scale", self.scales, scales, 1),
        ):
            beyond = [number for number in chosen or () if number >= count]
            if beyond:
                last = count - 1 + first
                raise ValueError(
                    f"{what} {beyond[0] + first}, where {what}s go from {first} to {last}"
                )
        every = tuple(range(layers)), tuple(range(scales))
        return self.layers or every[0], self.scales or every[1]


def attention_choice(value: object) -> AttentionChoice | None:
    """ "qkv", or "qkv:layers=0,4:scales=5-7"; None for no text.

    Raises:
        Unreadable: anything else.
    """
    if value == "":
        return None
    if not isinstance(value, str):
        raise Unreadable(_RULE, _FIX)
    kind, *parts = value.replace(" ", "").split(":")
    chosen: dict[str, tuple[int, ...]] = {}
    for part in parts:
        name, _, numbers = part.partition("=")
        if name not in ("layers", "scales") or name in chosen:
            raise Unreadable(_RULE, _FIX)
        chosen[name] = _numbers(numbers, 0 if name == "layers" else 1)
    if kind != "qkv":
        raise Unreadable(_RULE, _FIX)
    return AttentionChoice(**chosen)


def _numbers(text: str, first: int) -> tuple[int, ...]:
    """Sorted numbers, counted from 0, of a list of numbers and ranges that count from `first`."""
    found: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"(\d{1,4})(?:-(\d{1,4}))?", part, re.ASCII)
        if match is None:
            raise Unreadable(_RULE, _FIX)
        low = int(match[1])
        high = int(match[2] or low)
        if not first <= low <= high:
            raise Unreadable(_RULE, _FIX)
        found.update(range(low - first, high - first + 1))
    return tuple(sorted(found))
