"""The driver's side of a cluster: starts workers, gives them jobs, takes what they have drawn, and
gives the jobs of one that died to another.

Knows Ray's actors and which worker has which jobs; writes no file.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from scalekv.cli.batch.drawing import STRETCH, Failed, Outcome
from scalekv.cli.batch.jobs import Job
from scalekv.cli.choices import Choices
from scalekv.cli.cluster.asked import ClusterAsked, as_workers_have
from scalekv.cli.cluster.connect import Room, connected
from scalekv.cli.cluster.drawer import (
    Drawer,
    Errand,
    FolderLost,
    Place,
    Ready,
    Shared,
    StretchDone,
    Told,
    versions,
)
from scalekv.cli.cluster.member import Member, other_versions, reason_of
from scalekv.cli.cluster.work import Undrawn
from scalekv.cli.console.errors import Unsuccessful
from scalekv.cli.generate.run import figures
from scalekv.cli.report.kinds import Kinds
from scalekv.infinity_patch.generation.record import record
from scalekv.kv.errors import UserError

if TYPE_CHECKING:
    from scalekv.cli.console.progress import Display
    from scalekv.cli.pictures.folder import OutputFolder
    from scalekv.infinity_patch.asked.settled import Settled

ONE_BY_ONE = 4
"""Jobs that a worker is given at once where it draws one at a time; what it loses at most by dying
is the one at hand, the others cost nothing but being given out again."""
TOGETHER = 64
"""The same where it draws as many together as its memory takes: as many as that is at most."""
TICK_SECONDS = 1.0
PATIENCE_SECONDS = 600.0
"""That no worker may be anywhere before a batch that has none ends."""
MOST_STARTS = 3
"""Workers that may die one after another before one has loaded, until their place is left empty."""


@contextmanager
def pool_for(
    asked: ClusterAsked,
    choices: Choices,
    kinds: Sequence[Settled],
    folder: OutputFolder,
    display: Display,
    progressed: Callable[[int, int], None],
) -> Iterator[Pool]:
    """Connects to a cluster, and leaves it at the end with all workers gone.

    Raises:
        UserError: there is no such cluster, or nothing in it to draw on.
    """
    display.stage("starting workers here" if asked.address is None else "joining the cluster")
    threads = choices.placement.threads or 1
    with connected(asked, choices.device, threads) as room:
        shared = None
        if asked.write:
            sign = folder.leave_sign()
            shared = Shared(folder.path.absolute(), folder.owner, sign.name)
        errand = Errand(as_workers_have(choices, room.device), tuple(kinds), shared)
        pool = Pool(room, errand, display, progressed)
        try:
            yield pool
        finally:
            pool.close()
    if asked.write:
        folder.remove_leftovers()


class Pool:
    """Workers, as the source of a batch's pictures; see `PictureSource`.

    Args:
        room: of the cluster that is connected to.
        progressed: told of the caches that workers hold, in bytes, and of how many there are.

    Attributes:
        device: type of every worker's, "cuda" or "cpu".
    """

    def __init__(
        self,
        room: Room,
        errand: Errand,
        display: Display,
        progressed: Callable[[int, int], None],
    ) -> None:
        self.device = room.device
        self._room = room
        self._errand = errand
        self._display = display
        self._progressed = progressed
        self._work = Undrawn([], room.workers, self._longest)
        self._workers: list[Member] = []
        self._known: list[Member] = []  # all that have loaded, dead or alive
        self._begun = 0
        self._places = room.workers
        self._failed_starts = 0
        self._drawn = 0
        self._said: set[str] = set()
        self._why = ""
        self._last_anywhere = time.monotonic()

    def start(self, jobs: int) -> None:
        """Returns when the first worker has loaded.

        Args:
            jobs: that there are; there are no more workers than that.

        Raises:
            UserError: a worker's node lacks something; which one, and what to do there.
            Unsuccessful: none can be had.
        """
        self._places = min(self._places, jobs)
        self._fill()
        while not self._known:
            for worker in self._answering():
                self._advance(worker)
            self._fill()

    def draw(self, jobs: Sequence[Job]) -> Generator[tuple[Job, Outcome], None, None]:
        """See `PictureSource`.

        Raises:
            UserError: a node lacks something, and nothing was drawn yet.
            Unsuccessful: no worker is left, or the folder cannot be written to any more.
        """
        self._work = Undrawn(jobs, self._places, self._longest)
        while self._work or any(worker.jobs for worker in self._workers):
            self._give()
            for worker in self._answering():
                if worker.drawing:
                    yield from self._take(worker)
                else:
                    self._advance(worker)
            if self._work:
                self._fill()
            ready = [worker for worker in self._workers if worker.measured]
            self._progressed(sum(worker.held_bytes for worker in ready), len(ready))

    def measured(self, choices: Choices, kinds: Kinds) -> dict[str, Any]:
        """See `PictureSource`: memory of the worker that took the most, and a row for each."""
        largest = max(
            (worker.measured for worker in self._known if worker.measured),
            key=lambda measured: measured.highest_peak,
        )
        if largest.text_cache is not None:
            kept = [w.measured.text_cache or {} for w in self._known if w.measured]
            sums = {name: sum(one.get(name, 0) for one in kept) for name in largest.text_cache}
            largest = replace(largest, text_cache=sums)
        rows = [worker.to_dict() for worker in self._known]
        return {**figures(largest, choices, kinds), "workers": rows}

    def close(self) -> None:
        """Ends all workers, whatever they are at."""
        import ray

        for worker in self._workers:
            ray.kill(worker.actor)
        self._workers.clear()

    def _together(self, job: Job) -> int:
        """Jobs that a worker draws at once at most, beginning with this one."""
        device = self._room.device
        if job.settled.one_at_a_time_on(device):
            return 1
        return job.settled.on(device, job.settled.dtype).batch or TOGETHER

    def _longest(self, job: Job) -> int:
        if self._errand.choices.placement.keep_text_encoder is False:
            return STRETCH  # it is read again for every piece
        together = self._together(job)
        return ONE_BY_ONE if together == 1 else together

    def _fill(self) -> None:
        """Asks for workers until every place has one."""
        import ray

        actor = ray.remote(Drawer).options(
            num_cpus=self._room.cpus,
            num_gpus=self._room.gpus,
            max_restarts=0,
            scheduling_strategy="SPREAD",
        )
        while len(self._workers) < self._places:
            self._begun += 1
            made: Any = actor.remote()
            self._workers.append(Member(self._begun, made, made.where.remote()))
        if not self._workers:
            raise Unsuccessful(f"no worker is left to draw: {self._why}", "failed")

    def _answering(self) -> list[Member]:
        """Workers that have something to say, after a moment at most.

        Raises:
            Unsuccessful: none is anywhere, and none has been for long.
        """
        import ray

        if any(worker.place for worker in self._workers):
            self._last_anywhere = time.monotonic()
        waited = time.monotonic() - self._last_anywhere
        if waited > PATIENCE_SECONDS:
            minutes = f"{waited / 60:.0f} minutes"
            raise Unsuccessful(f"the cluster has had no room for a worker for {minutes}", "failed")
        by_awaited = {worker.awaited: worker for worker in self._workers if worker.awaited}
        awaited = list(by_awaited)
        ray.wait(awaited, num_returns=1, timeout=TICK_SECONDS)
        ready, _ = ray.wait(awaited, num_returns=len(awaited), timeout=0)  # all that are by now
        return [by_awaited[awaited] for awaited in ready]

    def _advance(self, worker: Member) -> None:
        """Takes the answer of a worker that does not draw yet, and has it do the next thing."""
        answer = self._got(worker, worker.awaited)
        match answer:
            case None:
                self._failed_starts += 1
                if self._failed_starts >= MOST_STARTS:
                    dead = f"{MOST_STARTS} workers died one after another while loading"
                    self._leave_empty(f"{dead}, the last: {worker.lost}")
            case Place():
                worker.place = answer
                if answer.versions != versions():
                    self._refused(worker, other_versions(answer))
                    return
                self._say(f"loading {self._errand.choices.preset.name} on {answer.host}")
                worker.awaited = worker.actor.load.remote(self._errand)
            case UserError():
                self._refused(worker, answer)
            case Ready():
                self._failed_starts = 0
                worker.measured, worker.awaited = answer.measured, None
                worker.load_seconds = time.perf_counter() - worker.asked_at
                self._known.append(worker)
                self._notes(answer.notes)

    def _give(self) -> None:
        """Gives work to all that have none."""
        for worker in self._workers:
            if worker.measured is None or worker.drawing or not self._work:
                continue
            worker.jobs = self._work.take()
            worker.drawing = True
            recorded = record(worker.jobs[0].settings)
            draw = worker.actor.draw.options(num_returns="streaming")
            worker.awaited = draw.remote(worker.jobs, recorded)

    def _take(self, worker: Member) -> Iterator[tuple[Job, Outcome]]:
        """Takes one answer of a worker that draws."""
        told: Told | None = self._got(worker, next(worker.awaited))
        match told:
            case None:
                yield from self._drawn_elsewhere(worker)
            case StretchDone():
                worker.measured, worker.drawing, worker.awaited = told.measured, False, None
                self._notes(told.notes)
            case FolderLost():
                raise Unsuccessful(told.why, "failed")
            case index, outcome:
                job = next(job for job in worker.jobs if job.index == index)
                worker.jobs = [other for other in worker.jobs if other is not job]
                if isinstance(outcome, Failed):
                    yield job, outcome
                    return
                self._drawn += 1
                worker.pictures += 1
                worker.seconds += outcome.seconds
                worker.held_bytes = int(outcome.cache["held_peak_bytes"])
                yield job, partial(replace, outcome, worker=worker.name)

    def _got(self, worker: Member, reference: Any) -> Any:
        """What a worker answers; None: it is lost, and no longer among the workers."""
        import ray

        try:
            return ray.get(reference)
        except ray.exceptions.RayError as error:
            ray.kill(worker.actor)  # it may be an answer alone that was lost
            self._workers.remove(worker)
            alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
            gone = worker.place is not None and worker.place.node not in alive
            worker.lost = "its node is gone" if gone else reason_of(error)
            return None

    def _drawn_elsewhere(self, worker: Member) -> Iterator[tuple[Job, Outcome]]:
        """Puts the jobs of a lost worker back; those that are given up have failed."""
        jobs = worker.jobs
        at_hand = min(self._together(jobs[0]), len(jobs)) if jobs else 0
        given_up = self._work.give_back(jobs, at_hand)
        worker.jobs = []
        again = len(jobs) - len(given_up)
        pictures = "1 picture" if again == 1 else f"{again} pictures"
        self._display.note(
            f"worker {worker.name} is lost: {worker.lost}; {pictures} it had are drawn elsewhere"
        )
        for job in given_up:
            yield job, Failed(f"workers died while drawing it, the last: {worker.lost}", "")

    def _refused(self, worker: Member, error: UserError) -> None:
        """A node lacks something: the end of a run that has drawn nothing, else of one worker."""
        import ray

        assert worker.place is not None
        error.what = f"{worker.place.host}: {error.what}"
        if error.fix:
            error.fix = f"on {worker.place.host}: {error.fix}"
        if not self._drawn:
            raise error
        ray.kill(worker.actor)
        self._workers.remove(worker)
        self._leave_empty(f"{error.what}; {error.fix}")

    def _leave_empty(self, why: str) -> None:
        self._places -= 1
        self._failed_starts = 0
        self._why = why
        self._display.note(f"one worker fewer: {why}")

    def _notes(self, notes: Sequence[str]) -> None:
        for note in notes:
            self._say(note)

    def _say(self, text: str) -> None:
        """A note, once however many workers have it."""
        if text not in self._said:
            self._said.add(text)
            self._display.note(text)
