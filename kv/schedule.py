"""The scales of one picture: map sizes and token counts. Knows no model, no torch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate

from scalekv.kv.errors import UserError


@dataclass(frozen=True)
class Schedule:
    """Map sizes (h, w) from coarse to fine; scales are indexed from 0 here.

    Messages, budget files and published tables number the same scales from 1.

    Raises:
        UserError: no scale at all, or a side that is not a positive whole number.
    """

    scales: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        if not self.scales:
            raise UserError("a schedule needs at least one scale", where="schedule")
        for number, size in enumerate(self.scales, start=1):
            if len(size) != 2 or any(type(side) is not int or side < 1 for side in size):
                raise UserError(
                    f"scale {number} of the schedule is {size!r}",
                    where="schedule",
                    rule="a scale is (height, width), both whole numbers of at least 1",
                )

    @classmethod
    def of(cls, sizes: Iterable[Sequence[int]]) -> Schedule:
        """From (h, w) or (1, h, w) entries, the latter as Infinity's own code passes them."""
        return _schedule(tuple((int(size[-2]), int(size[-1])) for size in sizes))

    @classmethod
    def parse(cls, text: str) -> Schedule:
        """From "1x1 2x2 4x4"; the inverse of `str()`.

        Raises:
            UserError: an entry that is not HEIGHTxWIDTH.
        """
        sizes = []
        for number, word in enumerate(text.split(), start=1):
            match = re.fullmatch(r"(\d+)x(\d+)", word)
            if match is None:
                raise UserError(
                    f"scale {number} of the schedule reads {word!r}",
                    where="schedule",
                    rule="scales are written HEIGHTxWIDTH with spaces between: 1x1 2x2 4x4",
                )
            sizes.append((int(match[1]), int(match[2])))
        return cls(tuple(sizes))

    def __str__(self) -> str:
        return " ".join(f"{h}x{w}" for h, w in self.scales)

    def __len__(self) -> int:
        return len(self.scales)

    @cached_property
    def tokens(self) -> tuple[int, ...]:
        """Tokens of each scale's map."""
        return tuple(h * w for h, w in self.scales)

    @cached_property
    def _starts(self) -> tuple[int, ...]:
        return tuple(accumulate(self.tokens, initial=0))

    def before(self, scale: int) -> int:
        """Tokens of scales 0 to scale - 1: the first position of `scale`; `before(len)` is all."""
        return self._starts[scale]

    @property
    def total(self) -> int:
        """Tokens of all scales."""
        return self._starts[-1]

    @property
    def history(self) -> int:
        """Tokens of all scales but the last, whose k and v no later scale reads."""
        return self._starts[-2]


@lru_cache(maxsize=64)  # every layer of every scale asks for the same one
def _schedule(scales: tuple[tuple[int, int], ...]) -> Schedule:
    return Schedule(scales)
