"""Jobs to finished pictures, with a model that is loaded in this process.

Knows jobs and the door to the model; nothing of folders, and writes nothing.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

from scalekv.cli import engine
from scalekv.cli.batch.jobs import Job, groups
from scalekv.cli.batch.resume import digest, shows_job
from scalekv.cli.choices import Choices
from scalekv.cli.console.errors import one_line
from scalekv.cli.generate.destination import writing_of
from scalekv.cli.generate.run import common_settings, entry_of, figures, sidecar_of
from scalekv.cli.report.kinds import Kinds
from scalekv.cli.report.measured import ProcessFigures
from scalekv.cli.report.sidecars import drawn_as, picture_entry

if TYPE_CHECKING:
    from scalekv.infinity_patch import Picture, Pipeline, Progress
    from scalekv.infinity_patch.asked.request import Request

STRETCH = 256
"""Pictures whose texts are encoded in one go, whatever their settings, so that a text encoder that
is freed after encoding is read once for all of them."""


@dataclass(frozen=True)
class Finished:
    """A job's picture, ready for its folder.

    Attributes:
        data: the file; None: it is in the folder already.
        size, sha256: of the file, in bytes and as manifests have it.
        sidecar: what the file beside it says.
        listed: the picture as reports list it.
        common: what its settings have that is not its own.
        cache: the ledger of its batch, with its scales.
        seconds, together, truncated: as `scalekv.infinity_patch.Picture` has them.
        worker: who drew it, where several do.
    """

    data: bytes | None
    size: int
    sha256: str
    sidecar: dict[str, Any]
    listed: dict[str, Any]
    common: dict[str, Any]
    cache: dict[str, Any]
    seconds: float
    together: int
    truncated: str | None
    worker: str | None = None

    @classmethod
    def of(cls, job: Job, picture: Picture, choices: Choices) -> Self:
        """Encodes a picture and describes it."""
        writing = writing_of(choices)
        data = writing.file(picture.image, picture.prompt, picture.settings, job.mark)
        path, sha256 = choices.out / (job.name + writing.suffix), digest(data)
        about = {"job": job.mark, "index": job.index, "sha256": sha256, **job.said}
        return cls(
            data=data,
            size=len(data),
            sha256=sha256,
            sidecar={**sidecar_of(picture, choices), **about},
            listed=entry_of(picture, path, choices.out / (job.name + ".json")),
            common=common_settings(picture.settings),
            cache=picture.cache,
            seconds=picture.seconds,
            together=picture.together,
            truncated=picture.truncated,
        )

    @classmethod
    def found(cls, job: Job, folder: Path, choices: Choices) -> Self | None:
        """A job's picture that is in a folder already, whole and described; None: it is not."""
        path = folder / (job.name + writing_of(choices).suffix)
        drawn = drawn_as(path) if shows_job(path, job) else None
        if drawn is None:
            return None
        data = path.read_bytes()
        names = {"file": path.name, "sidecar": job.name + ".json"}
        return cls(
            data=None,
            size=len(data),
            sha256=digest(data),
            sidecar=dict(drawn.sidecar),
            listed=picture_entry(drawn) | {k: str(choices.out / name) for k, name in names.items()},
            common=common_settings(drawn.settings),
            cache=drawn.sidecar["cache"],
            seconds=drawn.sidecar["seconds"],
            together=drawn.settings.get("batch", 1),
            truncated=drawn.sidecar.get("truncated"),
        )


@dataclass(frozen=True)
class Failed:
    """A job that has no picture; trace: where it happened, for whoever mends it."""

    reason: str
    trace: str

    @classmethod
    def by(cls, error: Exception) -> Self:
        """What an exception says."""
        return cls(one_line(error), "".join(traceback.format_exception(error)).rstrip())


Outcome = Callable[[], Finished] | Failed
"""What came of a job; a picture is encoded when it is called."""


class PictureSource(Protocol):
    """Where the pictures of a batch come from."""

    def draw(self, jobs: Sequence[Job]) -> Generator[tuple[Job, Outcome], None, None]:
        """Every job once, as soon as it is known what came of it."""
        ...

    def measured(self, choices: Choices, kinds: Kinds) -> dict[str, Any]:
        """What the report says of model, machine and memory."""
        ...


class Drawing:
    """Draws jobs, those of equal settings together; what fails in a batch is tried again alone.

    Args:
        finish: makes a file's content of a picture, usually `Finished.of`.
        scale_done, smaller_batch: told of every scale, and of a size that memory has room for.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        finish: Callable[[Job, Picture], Finished],
        scale_done: Callable[[Progress], None],
        smaller_batch: Callable[[int], None],
    ) -> None:
        self.pipeline = pipeline
        self._finish = finish
        self._told = scale_done
        self._tell_smaller = smaller_batch
        self._smaller: dict[Request, int] = {}
        self._together = 0

    def measured(self, choices: Choices, kinds: Kinds) -> dict[str, Any]:
        """See `PictureSource`."""
        return figures(ProcessFigures.of(self.pipeline), choices, kinds)

    def draw(self, jobs: Sequence[Job]) -> Generator[tuple[Job, Outcome], None, None]:
        """See `PictureSource`."""
        ordered = [job for group in groups(jobs) for job in group]
        for first in range(0, len(ordered), STRETCH):
            stretch = ordered[first : first + STRETCH]
            try:
                engine.encode(self.pipeline, encoded_texts(stretch))
            except Exception as error:  # no encoder, no pictures
                yield from ((job, Failed.by(error)) for job in stretch)
                continue
            for group in groups(stretch):
                yield from self._alike(group)

    def _alike(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, Outcome]]:
        left = list(jobs)
        singly = left[0].settled.one_at_a_time_on(self.pipeline.device.type)
        alone = 0  # pictures that are to be tried one by one
        while left:
            batch = left[:1] if alone else left
            self._together = 0
            finished, error = yield from self._some(batch)
            left = left[finished:]
            alone = max(alone - finished, 0)
            if error is None:
                continue
            if len(batch) == 1 or (singly and self._together):
                yield left.pop(0), Failed.by(error)
                alone = 0
            elif finished == 0:
                alone = self._together or len(left)

    def _some(
        self, jobs: Sequence[Job]
    ) -> Generator[tuple[Job, Outcome], None, tuple[int, Exception | None]]:
        """Returns how many of the jobs it has made, and what went wrong with the next, or None."""
        settings = jobs[0].settings

        def smaller(fitting: int) -> None:
            self._smaller[settings] = fitting
            self._tell_smaller(fitting)

        request = replace(
            settings,
            prompts=tuple(job.prompt for job in jobs),
            seeds=tuple(job.seed for job in jobs),
            batch_size=self._smaller.get(settings, settings.batch_size),
        )
        try:
            settled = jobs[0].settled.of(request)
            pictures = engine.generate(self.pipeline, settled, self._scale_done, smaller)
        except Exception as error:
            return 0, error
        try:
            for finished, job in enumerate(jobs):
                try:
                    picture = next(pictures)
                except Exception as error:
                    return finished, error
                yield job, partial(self._finish, job, picture)
        finally:
            engine.release(pictures)
        return len(jobs), None

    def _scale_done(self, progress: Progress) -> None:
        self._together = progress.together
        self._told(progress)


def encoded_texts(jobs: Sequence[Job]) -> list[str]:
    """All that is encoded for jobs, each text once."""
    requests = (replace(job.settings, prompts=(job.prompt,)) for job in jobs)
    return list(dict.fromkeys(text for request in requests for text in request.texts))
