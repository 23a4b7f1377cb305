"""How far a batch is: pictures done, how fast, how long still, what the cache holds.

Knows counts and seconds; nothing of terminals.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from scalekv.kv.sizes import human_bytes


@dataclass
class Tally:
    """Counts of a batch, and its speed since its first scale.

    Args:
        wanted: pictures in all.
        before: of these, there before this run.
    """

    wanted: int
    before: int = 0
    made: int = 0
    failed: int = 0
    held_bytes: int = 0
    clock: Callable[[], float] = time.monotonic
    _started: float | None = field(default=None)
    _last: float = field(default=0.0)

    def start(self) -> None:
        """Pictures are being made from now on."""
        if self._started is None:
            self._started = self._last = self.clock()

    def picture_made(self) -> None:
        """One more is done."""
        self.made += 1
        self._last = self.clock()

    @property
    def done(self) -> int:
        """Pictures there are."""
        return self.before + self.made

    @property
    def per_second(self) -> float:
        """Pictures a second made in this run; 0 before the first."""
        spent = self._last - (self._started or 0.0)
        return self.made / spent if self.made and spent > 0 else 0.0

    @property
    def seconds_left(self) -> float | None:
        """For what is neither done nor failed, at the speed so far; None before the first."""
        left = self.wanted - self.done - self.failed
        return left / self.per_second if self.per_second else None

    def __str__(self) -> str:
        parts = [f"{self.done}/{self.wanted}"]
        if self.failed:
            parts.append(f"{self.failed} failed")
        left = self.seconds_left
        if left is not None:
            parts += [human_rate(self.per_second), f"{human_time(left)} left"]
        parts.append(f"cache {human_bytes(self.held_bytes)}")
        return "  ".join(parts)


def human_rate(per_second: float) -> str:
    """In the largest unit of time that leaves at least one: "1.5/s", "40.0/min"."""
    for unit, seconds in (("s", 1), ("min", 60)):
        if per_second * seconds >= 1:
            return f"{per_second * seconds:.1f}/{unit}"
    return f"{per_second * 3600:.1f}/h"


def human_time(seconds: float) -> str:
    """In two units at most: "48 s", "12 min", "3 h 05 min"."""
    whole = round(seconds)
    if whole < 100:
        return f"{whole} s"
    minutes = round(whole / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"
