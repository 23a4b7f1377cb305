"""Pieces of work: none lost, none twice, and the one that kills workers is found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import pytest

from scalekv.cli.batch.jobs import Job
from scalekv.cli.cluster.work import MOST_DEATHS, Undrawn


@dataclass(frozen=True)
class Small:
    """As much of a job as `Undrawn` reads."""

    index: int
    settings: str = "a"


def jobs(count: int, settings: str = "a", first: int = 0) -> list[Job]:
    return [cast(Job, Small(first + i, settings)) for i in range(count)]


def work(of: list[Job], workers: int = 2, longest: int = 4) -> Undrawn:
    return Undrawn(of, workers, lambda _: longest)


def indices(taken: list[Job]) -> list[int]:
    return [job.index for job in taken]


def all_of(left: Undrawn) -> list[list[int]]:
    pieces = []
    while left:
        pieces.append(indices(left.take()))
    return pieces


def test_pieces_get_smaller_towards_the_end() -> None:
    assert all_of(work(jobs(11))) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9], [10]]


def test_a_piece_has_equal_settings() -> None:
    mixed = [*jobs(3, "a"), *jobs(3, "b", first=3)]
    pieces = all_of(work(mixed))
    assert pieces == [[0, 1, 2], [3, 4], [5]]


@pytest.mark.parametrize("count", [1, 7, 64, 1000])
@pytest.mark.parametrize("workers", [1, 3, 100])
def test_every_job_once(count: int, workers: int) -> None:
    pieces = all_of(work(jobs(count), workers))
    assert sorted(index for piece in pieces for index in piece) == list(range(count))
    assert max(map(len, pieces)) <= 4


def test_what_a_dead_worker_had_is_given_out_again_first() -> None:
    left = work(jobs(8), workers=1)
    piece = left.take()
    assert left.give_back(piece[1:], at_hand=1) == []
    assert all_of(left) == [[1], [2, 3], [4, 5, 6, 7]]


def test_a_job_that_kills_workers_is_given_up_alone() -> None:
    left = work(jobs(4), workers=1)
    deaths, done, given_up = 0, [], []
    while left:
        piece = left.take()
        if any(job.index == 2 for job in piece):  # dies of it whatever is drawn with it
            deaths += 1
            given_up += left.give_back(piece, at_hand=len(piece))
        else:
            done += indices(piece)
    assert (deaths, indices(given_up), sorted(done)) == (MOST_DEATHS, [2], [0, 1, 3])


def test_a_worker_without_work_gives_nothing_back() -> None:
    left: Any = work(jobs(2))
    assert left.give_back([], at_hand=0) == []
    assert len(left) == 2
