"""One run of `batch`: open the folder, load, make what is missing, keep each as it is done, report.

Knows the order of the steps and what is reported; each step is done elsewhere.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from scalekv.cli import engine
from scalekv.cli.batch.account import Account
from scalekv.cli.batch.drawing import (
    Drawing,
    Failed,
    Finished,
    Outcome,
    PictureSource,
    encoded_texts,
)
from scalekv.cli.batch.jobs import Job, groups
from scalekv.cli.batch.manifest import Manifest, manifest_name
from scalekv.cli.batch.resume import Standing, digest, standing
from scalekv.cli.batch.tally import Tally
from scalekv.cli.choices import Choices
from scalekv.cli.console.errors import Interrupted, Unsuccessful, debugging
from scalekv.cli.console.interrupts import interruptible, interrupts_wait
from scalekv.cli.console.progress import Display
from scalekv.cli.console.stdout import say, say_json
from scalekv.cli.generate.destination import writing_of
from scalekv.cli.generate.run import (
    tell_of_batches,
    tell_of_idle_budget,
    tell_of_templates,
    tell_of_viewer,
)
from scalekv.cli.pictures.folder import CannotWrite, OutputFolder
from scalekv.cli.pictures.writing import FORMAT
from scalekv.cli.plan.room import Target, check_room
from scalekv.cli.report.running import Running
from scalekv.kv.errors import UserError

if TYPE_CHECKING:
    from scalekv.cli.cluster.asked import ClusterAsked
    from scalekv.infinity_patch import Progress
    from scalekv.infinity_patch.asked.settled import Settled


class _FailedFast(Exception):
    """A picture failed, and the first is to be the last."""


@dataclass
class BatchRun:
    """What a run has so far.

    Args:
        jobs: what is asked for of this run.
        source: the file they came from, for people.
        target: the device that the run is for.
        json: one object on stdout at the end instead of a path for every picture.
        resume: pictures that are there already are not made again.
        fail_fast: stop at the first picture that fails.
        shard: (i, n); has a manifest of its own.
        marks: of all pictures of the file, whatever part of it is this run's.
        cluster: whose workers draw; None: this process does.
    """

    choices: Choices
    jobs: Sequence[Job]
    source: str
    target: Target
    console: Console
    json: bool = False
    resume: bool = False
    fail_fast: bool = False
    shard: tuple[int, int] | None = None
    marks: frozenset[str] = frozenset()
    cluster: ClusterAsked | None = None
    _running: Running | None = None
    _account: Account = field(init=False)
    _display: Display = field(init=False)
    _suffix: str = field(init=False)

    def __post_init__(self) -> None:
        tally = Tally(len(self.jobs))
        self._account = Account(self.choices, self.source, self.console, tally, self.json)
        self._display = Display(self.console, quiet=self.choices.quiet, elapsed=False)
        self._suffix = writing_of(self.choices).suffix

    def _standing(self, folder: Path) -> Standing:
        return standing(folder, self.jobs, self._suffix, self.resume, self.marks)

    def preview(self) -> None:
        """Says what would be made, and touches nothing.

        Raises:
            UserError: it could not be made.
        """
        now = self._standing(self.choices.out)
        files = [str(self.choices.out / (job.name + self._suffix)) for job in now.todo]
        before = len(now.done) + len(now.unlisted)
        if not self.choices.quiet:
            count = len(groups(now.todo))
            summary = f"{len(files)} pictures to make in {count} groups, {before} are there"
            self.console.print(summary, style="dim", soft_wrap=True)
            self._tell_of_rows()
            self._tell_standing(now)
        if self.json:
            say_json({"paths": files, "there_before": before})
        else:
            say("".join(f"{file}\n" for file in files))

    def execute(self) -> None:
        """Does it all.

        Raises:
            UserError: refused before the first picture.
            Unsuccessful: pictures failed, or could not be written any more.
            Interrupted: by Ctrl-C; finished pictures are kept in each case.
        """
        out = self.choices.out
        name = manifest_name(self.shard)
        if not self.choices.force and self.cluster is None:  # workers look at home
            placement = self.choices.placement.for_known_prompts()
            texts = encoded_texts(self.jobs)
            for kind in self._kinds():
                placement = check_room(
                    *(kind, self.target, placement, self.choices.weights_dir),
                    texts=texts,
                    device=self.choices.device,
                )
            self.choices = replace(self.choices, placement=placement)
        folder = OutputFolder(out, owner=Path(name).stem)
        try:
            with interruptible(), self._display:
                folder.prepare()
                with Manifest(out / name) as manifest:
                    todo = self._take_up(folder, manifest)
                    self._make_all(todo, folder, manifest)
        except KeyboardInterrupt:
            raise Interrupted(self._account.tally.made, str(out)) from None
        finally:
            folder.discard_if_empty()
        if self.choices.open:
            tell_of_viewer(out, self.console)
        self._account.check()

    def _kinds(self) -> list[Settled]:
        """What the pictures come to, once for all that are alike in what memory depends on."""
        kinds = {}
        for job in self.jobs:
            settings = job.settings
            kinds[
                settings.policy, settings.budget, settings.ratio, settings.pixels, settings.cfg
            ] = job.settled
        return list(kinds.values())

    def _take_up(self, folder: OutputFolder, manifest: Manifest) -> list[Job]:
        """Puts right what a kill left, and returns the jobs that are left."""
        if manifest.lines and not self.resume:
            raise UserError(
                f"{folder.path} has a manifest of {manifest.lines} pictures",
                where=str(manifest.path),
                rule="a batch begins in a folder without its manifest",
                fix="go on with --resume, or name another folder with --out DIR",
            )
        if not manifest.locked:
            self._display.note(
                "this file system has no locks: see to it that no other run writes here"
            )
        now = self._standing(folder.path)
        folder.remove_leftovers()
        for orphan in now.orphans:
            orphan.unlink(missing_ok=True)
        for job in now.unlisted:
            data = (folder.path / (job.name + self._suffix)).read_bytes()
            manifest.append(_entry(job, self._suffix, len(data), digest(data)))
        self._account.tally.before = len(now.done) + len(now.unlisted)
        self._tell_standing(now)
        return now.todo

    def _tell_standing(self, now: Standing) -> None:
        tally = self._account.tally
        if tally.before:
            self._display.note(f"{tally.before} of {tally.wanted} pictures are there")
        if now.moved:
            self._display.note(f"{now.moved} of them are of rows that stood elsewhere in the file")
        if now.strangers and now.todo:
            self._display.note(
                f"{now.strangers} pictures here are of no row as the file is now; {len(now.todo)} "
                "are new. A picture without a seed of its own has --seed plus its place in the "
                "file: rows are put in at the end, or have seeds"
            )
        for name in now.changed:
            self._display.note(
                f"{name} was changed since it was made; it is left as it is, delete it to have it "
                "made again"
            )

    def _tell_of_rows(self) -> None:
        notes = list(dict.fromkeys(name for job in self.jobs for name in job.notes))
        if notes:
            self._display.note(f"kept as notes, not as settings: {', '.join(notes)}")
        tell_of_templates(self.choices, (job.prompt for job in self.jobs), self._display)

    def _make_all(self, todo: Sequence[Job], folder: OutputFolder, manifest: Manifest) -> None:
        with ExitStack() as opened:
            self._make_with(opened, todo, folder, manifest)

    def _make_with(
        self, opened: ExitStack, todo: Sequence[Job], folder: OutputFolder, manifest: Manifest
    ) -> None:
        outcome = "failed"
        source: PictureSource | None = None
        try:
            if todo:
                source = self._source(todo, folder, opened)
                self._running = Running(folder)
                self._account.tally.start()
                with closing(source.draw(todo)) as drawn:
                    for job, what_came in drawn:
                        with interrupts_wait():
                            self._keep(job, what_came, folder, manifest)
                            self._update(source, manifest)
            outcome = "failed" if self._account.failures else "complete"
        except KeyboardInterrupt:
            outcome = "interrupted"
            raise
        except _FailedFast:
            pass
        except Unsuccessful as error:
            self._account.stopped = error
        finally:
            with interrupts_wait():
                self._display.clear()
                if source is not None or not todo:  # otherwise loading failed
                    self._account.report(source, folder, manifest, outcome)

    def _source(
        self, todo: Sequence[Job], folder: OutputFolder, opened: ExitStack
    ) -> PictureSource:
        """What draws the jobs, the model loaded; `opened` is to close it."""
        choices = self.choices
        shard = "" if self.shard is None else f", shard {self.shard[0]}/{self.shard[1]}"
        self._display.note(
            f"{len(self.jobs)} pictures of {self.source}{shard}, model {choices.preset.name} "
            f"({choices.model.origin}), policy {choices.request.policy}"
            + (f", seed {choices.seeds.first}" if choices.seeds.random else "")
        )
        self._tell_of_rows()
        told: dict[tuple[object, ...], Settled] = {}
        for kind in self._kinds():
            request = kind.request
            told.setdefault((request.policy, request.budget, request.ratio, request.pixels), kind)
        for kind in told.values():
            tell_of_idle_budget(kind, self._display)
        local = self.cluster is None
        source = self._here(todo) if local else self._there(len(todo), folder, opened)
        self._account.load_seconds = time.perf_counter() - self._account.started
        return source

    def _here(self, todo: Sequence[Job]) -> PictureSource:
        """The model in this process."""
        choices = self.choices
        self._display.stage(f"loading {choices.preset.name}")
        pipeline = engine.load(
            choices.preset,
            choices.device,
            choices.dtype,
            choices.weights_dir,
            choices.placement.for_known_prompts(),
            encoded_texts(todo),
        )
        tell_of_batches(self.jobs[0].settled, pipeline.device.type, self._display)
        finish = partial(Finished.of, choices=choices)
        return Drawing(pipeline, finish, self._scale_done, self._display.smaller_batch)

    def _there(self, count: int, folder: OutputFolder, opened: ExitStack) -> PictureSource:
        """Workers of a cluster."""
        from scalekv.cli.cluster.pool import pool_for

        assert self.cluster is not None
        pool = opened.enter_context(
            pool_for(
                self.cluster, self.choices, self._kinds(), folder, self._display, self._progressed
            )
        )
        tell_of_batches(self.jobs[0].settled, pool.device, self._display)
        pool.start(count)
        return pool

    def _keep(self, job: Job, outcome: Outcome, folder: OutputFolder, manifest: Manifest) -> None:
        """Saves a picture, tells where it is, and writes its line."""
        if isinstance(outcome, Failed):
            self._fail(job, outcome)
            return
        drawn, name = outcome(), job.name + self._suffix
        if drawn.data is not None and not folder.place(
            job.name, drawn.data, drawn.sidecar, self._suffix
        ):
            taken = FileExistsError(f"{name} came into the folder meanwhile")
            self._fail(job, Failed.by(taken))
            return
        self._account.kinds.add(drawn.cache)
        self._account.settings = drawn.common
        self._account.pictures.append(drawn.listed)
        if not self.json:
            self._display.clear()
            say(f"{folder.path / name}\n")
        manifest.append(_entry(job, self._suffix, drawn.size, drawn.sha256, drawn))
        self._account.tally.picture_made()
        if drawn.truncated:
            self._display.note(f"{job.place} was too long; not used: {drawn.truncated}")

    def _update(self, source: PictureSource, manifest: Manifest) -> None:
        """Leaves a report of what there is, in case this run is killed."""
        if self._running is not None and "json" in self.choices.memory_report:
            with suppress(CannotWrite):  # said at the end, or of the next picture
                self._running.update(
                    len(self._account.pictures),
                    lambda: self._account.figures(source, manifest, "running"),
                )

    def _fail(self, job: Job, failed: Failed) -> None:
        self._account.failures.append((job, failed.reason))
        self._account.tally.failed += 1
        self._display.note(f"{job.place}, seed {job.seed} failed: {failed.reason}")
        if debugging():
            self._display.clear()
            self.console.print(failed.trace, markup=False, soft_wrap=True)
        if self.fail_fast:
            raise _FailedFast

    def _progressed(self, held_bytes: int, workers: int) -> None:
        tally = self._account.tally
        tally.held_bytes = held_bytes
        count = "1 worker" if workers == 1 else f"{workers} workers"
        self._display.status(f"{tally}  {count}", tally.done + tally.failed, tally.wanted)

    def _scale_done(self, progress: Progress) -> None:
        tally = self._account.tally
        tally.held_bytes = progress.held_bytes
        share = progress.together * (progress.scale + 1) / progress.scales
        self._display.status(str(tally), tally.done + tally.failed + share, tally.wanted)


def _entry(
    job: Job, suffix: str, size: int, sha256: str, drawn: Finished | None = None
) -> dict[str, Any]:
    """A picture's line in the manifest; without `drawn` it was found, and more is not known."""
    return {
        "format": FORMAT,
        "index": job.index,
        "line": job.line,
        "image": job.image,
        "prompt": job.prompt,
        "seed": job.seed,
        "file": job.name + suffix,
        "job": job.mark,
        "bytes": size,
        "sha256": sha256,
        "seconds": None if drawn is None else round(drawn.seconds, 3),
        "batch": None if drawn is None else drawn.together,
        **({} if drawn is None or drawn.worker is None else {"worker": drawn.worker}),
        **job.said,
    }
