"""The one thread that owns the model: takes jobs from a bounded queue, draws waiting pictures of
the same shape together, and drops what nobody waits for. Knows jobs; nothing of HTTP."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from scalekv.cli import engine
from scalekv.cli.console.errors import kind_of
from scalekv.cli.generate.run import figures
from scalekv.cli.pictures.writing import USUAL
from scalekv.cli.report.figures import peak_of
from scalekv.cli.report.kinds import Kinds
from scalekv.cli.report.measured import ProcessFigures
from scalekv.cli.serve.metrics import Metrics

if TYPE_CHECKING:
    from scalekv.cli.choices import Choices
    from scalekv.infinity_patch import Picture, Pipeline, Progress, Request
    from scalekv.infinity_patch.asked.settled import Settled

MOST_TOGETHER = 64
"""Pictures that are drawn together at the most, where the device draws several at once."""

MOST_UNWRITTEN = 8
"""Drawn pictures that wait to become files; the model waits for one when there are more."""


class QueueFull(Exception):
    """No place for the pictures of a job."""


class Closing(Exception):
    """The server takes no more work."""


class NobodyWaits(Exception):
    """Ends pictures in the middle whose clients have gone."""


@dataclass(frozen=True)
class Delivery:
    """A finished picture of a job.

    png: the file, with its settings inside; figures: the memory report of the server with this
    picture's ledger.
    """

    png: bytes
    picture: Picture
    figures: dict[str, Any]


@dataclass(eq=False)
class Ticket:
    """The pictures one client waits for: of one prompt, `request.num_images` of them."""

    settled: Settled
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[list[Delivery]]
    drawn: list[Delivery] = field(default_factory=list)
    gone: bool = False
    begun: int = 0

    @property
    def request(self) -> Request:
        """What was asked for."""
        return self.settled.request

    @property
    def shape(self) -> Request:
        """What pictures that are drawn together have in common: all but prompts and seeds."""
        return self.request.in_common

    @property
    def waiting(self) -> int:
        """Pictures that are not begun."""
        return 0 if self.gone else self.request.pictures - self.begun

    def add(self, picture: Picture, figures: dict[str, Any]) -> None:
        """Makes a picture's file, and hands all over when it is the last."""
        if self.gone:
            return
        try:
            png = USUAL.file(picture.image, picture.prompt, picture.settings)
        except Exception as error:
            self.fail(error)
            return
        self.drawn.append(Delivery(png, picture, figures))
        if len(self.drawn) == self.request.pictures:
            self._tell(lambda: self.done.set_result(self.drawn))

    def fail(self, error: Exception) -> None:
        """Hands an error over."""
        self.gone = True
        self._tell(lambda: self.done.set_exception(error))

    def _tell(self, set_outcome: Callable[[], None]) -> None:
        def tell() -> None:
            if not self.done.done():
                set_outcome()

        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(tell)


class Worker:
    """Loads the model and draws, in a thread of its own.

    Args:
        most_waiting: pictures that may wait.
    """

    def __init__(self, choices: Choices, metrics: Metrics, most_waiting: int) -> None:
        self.ready = threading.Event()
        self.failure: Exception | None = None
        self._choices = choices
        self._metrics = metrics
        self._most_waiting = most_waiting
        self._jobs: deque[Ticket] = deque()
        self._changed = threading.Condition()  # of a lock that its holder may take again
        self._closing = False
        self._together = MOST_TOGETHER
        self._seconds = 1.0
        self._thread: threading.Thread | None = None
        self._writer = ThreadPoolExecutor(1, "scalekv-files")
        self._unwritten: deque[Future[None]] = deque()

    def start(self, on_end: Callable[[], None]) -> None:
        """Begins to load the model.

        Args:
            on_end: called when the thread ends, by `close` or because loading failed.
        """

        def run() -> None:
            try:
                self._run()
            except Exception as error:
                self.failure = error
            finally:
                self._writer.shutdown()
                on_end()

        self._thread = threading.Thread(target=run, name="scalekv-model", daemon=True)
        self._thread.start()

    def submit(self, settled: Settled, loop: asyncio.AbstractEventLoop) -> Ticket:
        """Puts pictures into the queue.

        Raises:
            QueueFull: there is no place for them.
            Closing: nothing is taken any more.
        """
        job = Ticket(settled, loop, loop.create_future())
        with self._changed:
            if self._closing:
                raise Closing
            if self.waiting + job.request.pictures > self._most_waiting:
                raise QueueFull
            self._jobs.append(job)
            self._count()
            self._changed.notify()
        return job

    def drop(self, job: Ticket) -> None:
        """Lets go of a job whose client has gone; what is in the middle of it ends soon."""
        with self._changed:
            self._metrics.dropped.inc(job.waiting)
            job.gone = True
            if job in self._jobs:
                self._jobs.remove(job)
            self._count()

    @property
    def waiting(self) -> int:
        """Pictures in the queue that are not begun."""
        return sum(job.waiting for job in self._jobs)

    @property
    def seconds_to_wait(self) -> int:
        """When to come again, in seconds: about when half the queue is drawn."""
        return max(1, round(self.waiting * self._seconds / 2))

    def close(self, *, finish: bool) -> None:
        """Takes no more work; returns when what was taken is done, or, without `finish`, when the
        pictures in the middle have ended."""
        with self._changed:
            self._closing = True
            for job in () if finish else list(self._jobs):
                self.drop(job)
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    def _count(self) -> None:
        self._metrics.queue.set(self.waiting)

    def _run(self) -> None:
        c = self._choices
        pipeline = engine.load(c.preset, c.device, c.dtype, c.weights_dir, c.placement)
        self.ready.set()
        while batch := self._next(pipeline):
            self._draw(pipeline, batch)

    def _next(self, pipeline: Pipeline) -> list[tuple[Ticket, int]]:
        """Pictures to draw together, each its job and number in it; empty: the end."""
        with self._changed:
            while not self._jobs:
                if self._closing:
                    return []
                self._changed.wait()
            shape = self._jobs[0].shape
            alone = self._jobs[0].settled.one_at_a_time_on(pipeline.device.type)
            most = 1 if alone else self._together
            batch: list[tuple[Ticket, int]] = []
            for job in list(self._jobs):
                if job.shape != shape or len(batch) == most:
                    continue
                taken = min(job.waiting, most - len(batch))
                batch += [(job, job.begun + i) for i in range(taken)]
                job.begun += taken
                if not job.waiting:
                    self._jobs.remove(job)
            self._count()
        return batch

    def _draw(self, pipeline: Pipeline, batch: Sequence[tuple[Ticket, int]]) -> None:
        first = batch[0][0].settled
        request = replace(
            first.request,
            prompts=tuple(job.request.prompts[0] for job, _ in batch),
            num_images=1,
            seeds=tuple(job.request.seed_of(number) for job, number in batch),
            batch_size=first.request.batch_size if len(batch) == 1 else len(batch),
        )

        def go_on(_: Progress) -> None:
            if all(job.gone for job, _ in batch):
                raise NobodyWaits

        pictures = engine.generate(pipeline, first.of(request), go_on, self._smaller)
        try:
            self._hand_out(pipeline, batch, pictures)
        except NobodyWaits:
            self._metrics.dropped.inc(len(batch))
        except Exception as error:
            self._write_all_but(0)  # what was drawn before it is not lost
            for job in {id(job): job for job, _ in batch}.values():
                self.drop(job)
                job.fail(error)
            if kind_of(error) == "out-of-memory":
                engine.free_memory(pipeline)
        finally:
            engine.release(pictures)
            for stage, peaks in pipeline.stages.peaks().items():
                self._metrics.peak.labels(stage).set(peak_of(peaks))

    def _hand_out(
        self, pipeline: Pipeline, batch: Sequence[tuple[Ticket, int]], pictures: Iterator[Picture]
    ) -> None:
        for (job, _), picture in zip(batch, pictures, strict=True):
            self._seconds = picture.seconds
            self._metrics.pictures.inc()
            self._metrics.picture_seconds.observe(picture.seconds)
            self._metrics.held.set(picture.cache["held_peak_bytes"])
            kinds = Kinds.of([picture.cache])
            report = figures(ProcessFigures.of(pipeline), self._choices, kinds)
            self._unwritten.append(self._writer.submit(job.add, picture, report))
            self._write_all_but(MOST_UNWRITTEN)

    def _write_all_but(self, most: int) -> None:
        """Waits until no more than so many drawn pictures are to become files."""
        while len(self._unwritten) > most:
            self._unwritten.popleft().result()

    def _smaller(self, pictures: int) -> None:
        """Memory ran out with more: from now on as many together."""
        self._together = pictures
