"""What is left to be given out of a batch, in which pieces, and what is given up.

Knows jobs; nothing of who draws them.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence

from scalekv.cli.batch.jobs import Job, groups

MOST_DEATHS = 3
"""Workers that may die of a picture before it counts as failed."""


class Undrawn:
    """Jobs in their errand, to be taken in pieces that one worker draws together.

    Args:
        workers: that there are to be: towards the end pieces get smaller, so that all end together.
        longest: jobs that a piece may have, by its first job.
    """

    def __init__(self, jobs: Sequence[Job], workers: int, longest: Callable[[Job], int]) -> None:
        self._pieces = deque(groups(jobs))
        self._workers = workers
        self._longest = longest
        self._deaths: Counter[int] = Counter()

    def __len__(self) -> int:
        return sum(map(len, self._pieces))

    def take(self) -> list[Job]:
        """The next piece: jobs of equal settings."""
        fair = -(-len(self) // self._workers)
        piece = self._pieces.popleft()
        size = max(min(self._longest(piece[0]), fair), 1)
        if len(piece) > size:
            self._pieces.appendleft(piece[size:])
        return piece[:size]

    def give_back(self, jobs: Sequence[Job], at_hand: int) -> list[Job]:
        """Takes back what a worker that died had not finished.

        Args:
            at_hand: how many of the first of them it may have died of. They are given out one by
                one from now on, so that the one that kills workers takes no other with it.

        Returns:
            Those that are given up.
        """
        given_up = []
        if jobs[at_hand:]:
            self._pieces.appendleft(list(jobs[at_hand:]))
        for job in reversed(jobs[:at_hand]):
            self._deaths[job.index] += 1
            if self._deaths[job.index] < MOST_DEATHS:
                self._pieces.appendleft([job])
            else:
                given_up.append(job)
        return given_up
