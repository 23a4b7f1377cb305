"""A stage's time: how much of it is over, and what rate goes with that. Knows nothing of models."""

from __future__ import annotations

import signal
import sys
import time

WARM_UP = 40  # steps
COOL_DOWN = 0.45  # share of a stage's time
STOPPED = "stopped by a signal: what was trained is saved, the same command goes on"


class TimeLimit:
    """The seconds of a stage, those of runs before included.

    seconds: the stage's time in all; spent: of it, by runs before; deadline: on `time.monotonic`,
    when this run must be over. A stage that would not fit is shortened at its beginning, so that
    its rate still falls to the end.
    """

    def __init__(self, seconds: float, spent: float, deadline: float) -> None:
        self._began, self._before = time.monotonic(), spent
        self.seconds = min(seconds, spent + max(deadline - self._began, 0.0))

    @property
    def spent(self) -> float:
        """Seconds of the stage that are over."""
        return self._before + time.monotonic() - self._began

    @property
    def share(self) -> float:
        """How much of the stage is over, from 0 to 1."""
        return min(self.spent / self.seconds, 1.0) if self.seconds > 0 else 1.0


def rate_at(share: float, step: int) -> float:
    """What the peak learning rate is multiplied by: up, level, and down to nothing.

    share: of the stage's time, from 0 to 1; step: number of the step, from 0.
    """
    return max(0.0, min(1.0, (step + 1) / WARM_UP, (1 - share) / COOL_DOWN))


class Every:
    """True once in so many seconds."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self._last = seconds, time.monotonic()

    def __call__(self) -> bool:
        now = time.monotonic()
        if now - self._last < self.seconds:
            return False
        self._last = now
        return True


class Stop:
    """Whether SIGTERM or Ctrl-C asked to stop; then the stage saves and the run ends."""

    def __init__(self) -> None:
        self.asked = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask)

    def _ask(self, number: int, frame: object) -> None:
        self.asked = True

    def leave(self) -> None:
        """End the process where a stop was asked for."""
        if self.asked:
            print(STOPPED, file=sys.stderr)
            raise SystemExit(143)
