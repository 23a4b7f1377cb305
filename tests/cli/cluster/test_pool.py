"""The driver's side: whose jobs are drawn again, what is given up, and what ends a batch."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from scalekv.cli.batch.drawing import Failed, Finished
from scalekv.cli.batch.file import PromptFile
from scalekv.cli.batch.jobs import Job, jobs_of
from scalekv.cli.batch.rows import Row
from scalekv.cli.choices import Options, choose
from scalekv.cli.cluster.connect import Room
from scalekv.cli.cluster.drawer import Errand, FolderLost, Place, Ready, StretchDone, versions
from scalekv.cli.cluster.pool import Pool
from scalekv.cli.console.errors import Unsuccessful
from scalekv.cli.pictures.names import NameTemplate
from scalekv.cli.report.kinds import Kinds
from scalekv.cli.report.measured import ProcessFigures
from scalekv.kv.errors import UserError
from tests.cli.cluster.fake_ray import FakeRay, OutOfMemoryError, RayError
from tests.cli.conftest import StandIn

PEAKS = {"scales": {"resident_peak_bytes": 60}}
MEASURED = ProcessFigures(
    "cpu", "float32", "fp32", {"cores": 1}, {"vae": 1}, PEAKS, {}, ("a stand-in",)
)
LEDGER = {"policy": "full", "budget": None, "held_peak_bytes": 7}


def finished(job: Job) -> Finished:
    return Finished(b"png", 3, "0", {}, {"prompt": job.prompt}, {}, LEDGER, 0.5, 1, None)


@dataclass
class Actor:
    """A worker that draws; `dies` before these jobs, on `node`."""

    node: str = "node"
    dies: tuple[int, ...] = ()
    error: RayError = field(default_factory=RayError)
    answer: Any = field(default_factory=lambda: Ready(MEASURED, ("a note",)))
    versions: dict[str, str] = field(default_factory=versions)
    full_at: int | None = None
    given: list[int] = field(default_factory=list)

    def where(self) -> Place:
        return Place("host", 1, self.node, self.versions)

    def load(self, order: Errand) -> Any:
        if isinstance(self.answer, RayError):
            raise self.answer
        return self.answer

    def draw(self, jobs: Sequence[Job], recorded: Any) -> Iterator[Any]:
        for job in jobs:
            self.given.append(job.index)
            if job.index in self.dies:
                raise self.error
            if job.index == self.full_at:
                yield FolderLost("no space left")
                return
            yield job.index, finished(job)
        yield StretchDone(MEASURED, ())


@dataclass
class Notes:
    said: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        self.said.append(text)

    stage = note


@dataclass
class Setup:
    ray: FakeRay
    pool: Pool
    jobs: list[Job]
    notes: Notes

    def drawn(self) -> Counter[int]:
        """How often every job came back with a picture."""
        self.pool.start(len(self.jobs))
        return Counter(
            job.index
            for job, outcome in self.pool.draw(self.jobs)
            if not isinstance(outcome, Failed)
        )


Make = Callable[..., Setup]


@pytest.fixture
def make(stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> Make:
    def setup(
        actor: Callable[[int], Actor], jobs: int = 10, workers: int = 2, device: str = "cpu"
    ) -> Setup:
        choices = choose(Options((), {"out": Path("out")}), {})
        rows = PromptFile("p.txt", rows=[Row(i + 1, {"prompt": "an owl"}) for i in range(jobs)])
        ray, notes = FakeRay(actor), Notes()
        monkeypatch.setitem(sys.modules, "ray", ray)
        pool = Pool(
            Room(device, workers, 1.0, 0.0, True),
            Errand(choices, (), None),
            notes,  # type: ignore[arg-type]
            lambda held, workers: None,
        )
        return Setup(ray, pool, jobs_of(rows, choices, NameTemplate("{index}"), "cpu"), notes)

    return setup


def every(count: int) -> Counter[int]:
    return Counter(range(count))


def test_every_job_is_drawn_once(make: Make) -> None:
    setup = make(lambda _: Actor())
    assert setup.drawn() == every(10)
    assert setup.notes.said.count("a note") == 1  # of two workers


def test_what_a_dead_worker_had_is_drawn_by_another(make: Make) -> None:
    setup = make(lambda number: Actor(dies=(2,) if number == 0 else ()))
    assert setup.drawn() == every(10)
    assert len(setup.ray.asked) == 3
    assert [n for n in setup.notes.said if "lost" in n] == [
        "worker host/1 is lost: its process died; 2 pictures it had are drawn elsewhere"
    ]
    rows = setup.pool.measured(choose(Options((), {}), {}), Kinds())["workers"]
    assert sum(row["pictures"] for row in rows) == 10
    assert [row["lost"] for row in rows] == ["its process died", None, None]


@pytest.mark.parametrize(
    ("node", "error", "reason"),
    [
        ("gone", RayError(), "its node is gone"),
        ("node", OutOfMemoryError(), "its node ran out of memory"),
    ],
)
def test_why_a_worker_is_lost(make: Make, node: str, error: RayError, reason: str) -> None:
    setup = make(lambda number: Actor(node, (1,), error) if number == 0 else Actor())
    assert setup.drawn() == every(10)
    assert reason in " ".join(setup.notes.said)


@pytest.mark.parametrize("device", ["cpu", "cuda"])  # one by one, and together
def test_a_picture_that_kills_three_workers_has_failed(make: Make, device: str) -> None:
    setup = make(lambda _: Actor(dies=(5,)), device=device)
    setup.pool.start(10)
    came = {job.index: outcome for job, outcome in setup.pool.draw(setup.jobs)}
    assert sorted(came) == list(range(10))
    failed = [index for index, outcome in came.items() if isinstance(outcome, Failed)]
    assert failed == [5]
    assert isinstance(came[5], Failed)
    assert "workers died while drawing it" in came[5].reason
    assert len(setup.ray.asked) <= 2 + 3


def test_a_node_that_lacks_something_is_named_before_the_first_picture(make: Make) -> None:
    missing = UserError("no weights", fix="scalekv download infinity-2b")
    setup = make(lambda number: Actor(answer=missing) if number == 1 else Actor())
    with pytest.raises(UserError) as refused:
        setup.drawn()
    assert refused.value.what == "host: no weights"
    assert refused.value.fix == "on host: scalekv download infinity-2b"


def test_a_node_that_comes_later_and_lacks_something_costs_its_place(make: Make) -> None:
    missing = UserError("no weights", fix="scalekv download infinity-2b")

    def actor(number: int) -> Actor:
        return Actor(answer=missing) if number > 1 else Actor(dies=(3,) if number == 0 else ())

    setup = make(actor)
    assert setup.drawn() == every(10)
    assert "one worker fewer: host: no weights; on host: scalekv download infinity-2b" in (
        setup.notes.said
    )


def test_other_versions_are_refused(make: Make) -> None:
    setup = make(lambda _: Actor(versions=versions() | {"torch": "1.0"}))
    with pytest.raises(UserError) as refused:
        setup.drawn()
    assert "torch 1.0, here" in refused.value.what
    assert "pip install scalekv==" in refused.value.fix


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("", "its process died"),
        ("in its start\nModuleNotFoundError: No module named 'scalekv'\n", "No module named"),
    ],
)
def test_workers_that_all_die_while_loading_end_the_batch(
    make: Make, said: str, reason: str
) -> None:
    setup = make(lambda _: Actor(answer=RayError(said)))
    with pytest.raises(Unsuccessful, match=f"no worker is left to draw: .*{reason}"):
        setup.drawn()
    assert len(setup.ray.asked) <= 6


def test_a_folder_that_is_full_ends_the_batch(make: Make) -> None:
    setup = make(lambda _: Actor(full_at=3))
    with pytest.raises(Unsuccessful, match="no space left"):
        setup.drawn()


def test_no_room_for_a_worker_for_long(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    setup = make(lambda _: Actor())
    monkeypatch.setattr(setup.ray, "wait", lambda *_, **__: ([], []))
    clock = iter(range(0, 100_000, 100))
    monkeypatch.setattr(
        "scalekv.cli.cluster.pool.time",
        SimpleNamespace(monotonic=lambda: next(clock), perf_counter=lambda: 0.0),
    )
    with pytest.raises(Unsuccessful, match="no room for a worker for"):
        setup.drawn()


def test_closing_ends_all_workers(make: Make) -> None:
    setup = make(lambda _: Actor())
    setup.pool.start(10)
    setup.pool.close()
    assert len(setup.ray.killed) == 2
