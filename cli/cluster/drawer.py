"""One worker: a process somewhere in the cluster that loads the model from its node's own files and
draws what it is given.

Knows pictures and this node's folders; nothing of who gives out the work.
"""

from __future__ import annotations

import logging
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalekv.cli import engine
from scalekv.cli.batch.drawing import Drawing, Failed, Finished, Outcome
from scalekv.cli.batch.jobs import Job
from scalekv.cli.batch.resume import names_job
from scalekv.cli.choices import Choices
from scalekv.cli.generate.destination import writing_of
from scalekv.cli.pictures.folder import CannotWrite, OutputFolder
from scalekv.cli.plan.room import check_room, target_of
from scalekv.cli.report.measured import ProcessFigures
from scalekv.kv.errors import UserError

if TYPE_CHECKING:
    from scalekv.infinity_patch import Picture
    from scalekv.infinity_patch.asked.settled import Settled


@dataclass(frozen=True)
class Shared:
    """A folder that workers write to.

    Attributes:
        path: absolute.
        owner: of the hidden files in it, see `OutputFolder`.
        sign: the name of a file by which a worker knows that it sees the same folder.
    """

    path: Path
    owner: str
    sign: str


@dataclass(frozen=True)
class Errand:
    """What every worker is told once.

    kinds: what the pictures come to, for what memory they take; shared: None: pictures go to the
    driver.
    """

    choices: Choices
    kinds: tuple[Settled, ...]
    shared: Shared | None


@dataclass(frozen=True)
class Place:
    """Where a worker runs, and with which versions; they are part of what pictures say."""

    host: str
    pid: int
    node: str
    versions: Mapping[str, str]


@dataclass(frozen=True)
class Ready:
    """A loaded model. notes: what is to be said of it."""

    measured: ProcessFigures
    notes: tuple[str, ...]


@dataclass(frozen=True)
class StretchDone:
    """A worker has drawn what it was given."""

    measured: ProcessFigures
    notes: tuple[str, ...]


@dataclass(frozen=True)
class FolderLost:
    """A worker could not write any more; why, in words."""

    why: str


Told = tuple[int, Finished | Failed] | StretchDone | FolderLost
"""What a worker says while it draws; the number is a job's index."""


def versions() -> dict[str, str]:
    """Of what has to be the same on all nodes."""
    return {name: version(name) for name in ("scalekv", "torch", "pillow")}


class Drawer:
    """A worker's life, as Ray calls it: where, load, and then draw again and again."""

    def __init__(self) -> None:
        self._notes: list[str] = []
        self._recorded: dict[str, Any] = {}

    def where(self) -> Place:
        """Says where this is, as soon as it is anywhere."""
        import ray

        node = ray.get_runtime_context().get_node_id()
        return Place(platform.node(), os.getpid(), node, versions())

    def load(self, errand: Errand) -> Ready | UserError:
        """Loads the model, or says why it cannot."""
        self._errand = errand
        choices = errand.choices
        self._suffix = writing_of(choices).suffix
        try:
            with self._noted():
                if errand.shared is not None:
                    self._folder = _opened(errand.shared)
                placement = choices.placement
                if not choices.force:
                    target = target_of(choices.device)
                    for kind in errand.kinds:
                        placement = check_room(kind, target, placement, choices.weights_dir)
                pipeline = engine.load(
                    choices.preset,
                    choices.device,
                    choices.dtype,
                    choices.weights_dir,
                    placement,
                )
        except UserError as error:
            return error
        self._drawing = Drawing(pipeline, self._finish, lambda _: None, self._smaller)
        return Ready(ProcessFigures.of(pipeline), self._take_notes())

    def draw(self, jobs: Sequence[Job], recorded: Mapping[str, Any]) -> Iterator[Told]:
        """Draws jobs of equal settings.

        Args:
            recorded: what their pictures keep of the request: the driver has the files it names.
        """
        self._recorded = dict(recorded)
        try:
            with self._noted():
                todo = list(jobs)
                if self._errand.shared is not None:
                    found = {job.index: drawn for job in jobs if (drawn := self._found(job))}
                    yield from found.items()
                    todo = [job for job in jobs if job.index not in found]
                for job, outcome in self._drawing.draw(todo):
                    yield job.index, self._placed(job, outcome)
        except CannotWrite as error:
            yield FolderLost(str(error))
            return
        yield StretchDone(ProcessFigures.of(self._drawing.pipeline), self._take_notes())

    def _finish(self, job: Job, picture: Picture) -> Finished:
        picture.settings["recorded"] = self._recorded
        return Finished.of(job, picture, self._errand.choices)

    def _placed(self, job: Job, outcome: Outcome) -> Finished | Failed:
        if isinstance(outcome, Failed):
            return outcome
        drawn = outcome()
        if self._errand.shared is None:
            return drawn
        assert drawn.data is not None
        if self._folder.place(job.name, drawn.data, drawn.sidecar, self._suffix):
            return replace(drawn, data=None)
        taken = FileExistsError(f"{job.name + self._suffix} came into the folder meanwhile")
        return self._found(job) or Failed.by(taken)

    def _found(self, job: Job) -> Finished | None:
        """A job's picture that is in the folder already: a worker put it there that died before it
        could say so. What one left half done is removed."""
        folder = self._folder.path
        if not (folder / (job.name + self._suffix)).exists():
            sidecar = folder / (job.name + ".json")
            if names_job(sidecar, job):
                sidecar.unlink(missing_ok=True)
            return None
        return Finished.found(job, folder, self._errand.choices)

    def _smaller(self, pictures: int) -> None:
        self._notes.append(f"memory ran out: {pictures} at a time from now on")

    @contextmanager
    def _noted(self) -> Iterator[None]:
        """Keeps what the library has to say, for the driver."""
        log, keeper = logging.getLogger("scalekv"), _Keeper(self._notes)
        log.addHandler(keeper)
        try:
            yield
        finally:
            log.removeHandler(keeper)

    def _take_notes(self) -> tuple[str, ...]:
        notes = tuple(dict.fromkeys(self._notes))
        self._notes.clear()
        return notes


class _Keeper(logging.Handler):
    """Keeps what is logged."""

    def __init__(self, notes: list[str]) -> None:
        super().__init__()
        self._kept = notes

    def emit(self, record: logging.LogRecord) -> None:
        self._kept.append(record.getMessage())


def _opened(shared: Shared) -> OutputFolder:
    """The folder, seen to be the one that the driver sees, and to be one that can be written to.

    Raises:
        UserError: it is not.
    """
    if not (shared.path / shared.sign).exists():
        raise UserError(
            f"{shared.path} is not the folder that the command sees",
            where="--workers-write",
            rule="a folder that all nodes see under the same path",
            fix="leave out --workers-write: the command then writes what workers send it",
        )
    folder = OutputFolder(shared.path, owner=shared.owner)
    folder.prepare()
    return folder
