"""Threads: one per physical core that may be used."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from scalekv.infinity_patch.machine import machine as threads
from scalekv.infinity_patch.machine.machine import sensible_threads


@pytest.fixture
def eight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Eight logical processors on four cores; the file that a container's limit is read from."""
    for number in range(8):
        core = number % 4
        (tmp_path / str(number)).write_text(f"{core},{core + 4}\n", encoding="ascii")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(threads, "SIBLINGS", str(tmp_path / "{}"))
    monkeypatch.setattr(threads, "QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    return tmp_path / "cpu.max"


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        (None, 4),
        ("max 100000", 4),
        ("250000 100000", 3),
        ("50000 100000", 1),
        ("900000 100000", 4),
        ("nonsense", 4),
    ],
)
def test_cores_and_a_containers_limit(eight: Path, limit: str | None, expected: int) -> None:
    if limit is not None:
        eight.write_text(limit, encoding="ascii")
    assert sensible_threads() == expected


def test_only_processors_that_may_be_used(eight: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 4, 5})
    assert sensible_threads() == 2


def test_what_the_environment_says_holds(eight: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert sensible_threads() is None


def test_an_unknown_system_is_left_alone(eight: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "SIBLINGS", "/nowhere/{}")
    assert sensible_threads() is None


def test_spinning_is_limited_unless_somebody_said_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for words in (None, *threads.SPINS, "OMP_WAIT_POLICY"):
        for name in (*threads.SPINS, "OMP_WAIT_POLICY"):
            monkeypatch.setenv(name, "")  # so that it is put back
            monkeypatch.delenv(name)
        if words is not None:
            monkeypatch.setenv(words, "7")
        threads.limit_spinning()
        found = {name: os.environ.get(name) for name in threads.SPINS}
        assert found == (
            threads.SPINS if words is None else {n: "7" if n == words else None for n in found}
        )
