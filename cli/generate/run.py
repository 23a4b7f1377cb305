"""One run of `generate`: check, load, make pictures, keep each as it is done, report.

Knows the order of the steps and what is reported; each step is done elsewhere.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from scalekv.cli import engine
from scalekv.cli.choices import Choices
from scalekv.cli.console.errors import Interrupted, Unsuccessful
from scalekv.cli.console.interrupts import interruptible, interrupts_wait, told_how_it_ends
from scalekv.cli.console.progress import Display
from scalekv.cli.console.stdout import say, say_json
from scalekv.cli.generate.destination import Destination
from scalekv.cli.pictures.folder import Attached, CannotWrite, OutputFolder
from scalekv.cli.pictures.viewer import open_with_viewer
from scalekv.cli.pictures.writing import FORMAT
from scalekv.cli.plan.room import check_room, target_of
from scalekv.cli.prompts.wildcards import looks_like_template
from scalekv.cli.report.figures import memory_report, print_summary, print_table
from scalekv.cli.report.kinds import Kinds
from scalekv.cli.report.measured import ProcessFigures
from scalekv.cli.report.running import Running
from scalekv.configs.budget_files import alternative_for
from scalekv.configs.output_options import NO_REPORT
from scalekv.infinity_patch.schedules import size_of

if TYPE_CHECKING:
    from scalekv.infinity_patch import Picture, Pipeline
    from scalekv.infinity_patch.asked.settled import Settled
    from scalekv.infinity_patch.generation.attention_record import AttentionRecorder
    from scalekv.infinity_patch.loading.placement import Placement


@dataclass
class Run:
    """What a run has so far.

    Args:
        json: one object on stdout at the end instead of a path for every picture.
    """

    choices: Choices
    console: Console
    json: bool = False
    pictures: list[dict[str, Any]] = field(default_factory=list)
    kinds: Kinds = field(default_factory=Kinds)
    load_seconds: float = 0.0
    _running: Running | None = None
    _started: float = field(default_factory=time.perf_counter)
    _clock: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    _settings: dict[str, Any] = field(default_factory=dict)
    _cannot_write: CannotWrite | None = None
    _pipeline: Pipeline | None = None
    _placement: Placement | None = None
    _recorder: AttentionRecorder | None = None
    _to: Destination = field(init=False)

    def __post_init__(self) -> None:
        """Settles where the pictures go.

        Raises:
            UserError: not there, see `Destination.of`.
        """
        self._to = Destination.of(self.choices)

    def execute(self) -> None:
        """Does it all.

        Raises:
            UserError: refused before the first picture.
            Unsuccessful: pictures or the report could not be written any more.
            Interrupted: by Ctrl-C; finished pictures are kept in each case.
        """
        choices = self.choices
        try:
            settled = self._settled()
        except KeyboardInterrupt:
            raise Interrupted(0, "") from None
        folder = OutputFolder(self._to.folder)
        try:
            with interruptible(), Display(self.console, quiet=self.choices.quiet) as display:
                folder.prepare()
                display.note(self._headline())
                tell_of_idle_budget(settled, display)
                tell_of_templates(choices, choices.request.prompts, display)
                if choices.record is not None:
                    self._recorder = engine.recorder(choices.record, settled, folder.path)
                pictures = self._drawn(settled, display)
                self.load_seconds = time.perf_counter() - self._started
                self._keep_all(pictures, folder, display)
        except KeyboardInterrupt:
            raise Interrupted(len(self.pictures), str(self._to.folder)) from None
        finally:
            folder.discard_if_empty()
        if choices.open and self.pictures:
            self._open()
        if self._cannot_write is not None:
            raise Unsuccessful(
                f"{self._cannot_write}; {len(self.pictures)} of {self._wanted} pictures are there",
                "failed",
            )

    def _settled(self) -> Settled:
        """What the request comes to.

        Raises:
            UserError: it cannot be fulfilled here.
        """
        choices = self.choices
        target = target_of(choices.device)
        request = choices.request
        if choices.record is not None:  # a file has one picture's attention
            request = replace(request, reproducible=True)
        settled = engine.check(
            request, choices.preset, choices.weights_dir, choices.dtype, target.device
        )
        self._placement = choices.placement.for_known_prompts()
        if not choices.force:
            self._placement = check_room(
                *(settled, target, self._placement, choices.weights_dir),
                texts=request.texts,
                device=choices.device,
            )
        return settled

    def _drawn(self, settled: Settled, display: Display) -> Iterator[Picture]:
        """The pictures, from a model that is loaded first."""
        self._pipeline = pipeline = self._load(display)
        tell_of_batches(settled, pipeline.device.type, display)
        recording = {} if self._recorder is None else {"recorder": self._recorder}
        return engine.generate(
            pipeline, settled, display.scale_done, display.smaller_batch, **recording
        )

    def _load(self, display: Display) -> Pipeline:
        choices, placement = self.choices, self._placement
        assert placement is not None, "the request is settled first"
        display.stage(f"loading {choices.preset.name}")
        pipeline = engine.load(
            choices.preset,
            choices.device,
            choices.dtype,
            choices.weights_dir,
            placement,
            choices.request.texts,
        )
        display.note(f"computing in {pipeline.computing}")
        return pipeline

    def _measured(self) -> dict[str, Any]:
        """What the report says of model, machine and memory."""
        assert self._pipeline is not None
        return figures(ProcessFigures.of(self._pipeline), self.choices, self.kinds)

    def _keep_all(
        self, pictures: Iterator[Picture], folder: OutputFolder, display: Display
    ) -> None:
        def finish(outcome: str) -> None:
            engine.release(pictures)
            if self._recorder is not None:
                self._recorder.discard()
            display.clear()
            if outcome == "complete" or self.pictures:
                self._report(folder, outcome)

        try:
            with told_how_it_ends(finish):
                for picture in pictures:
                    with interrupts_wait():
                        self._keep(picture, folder, display)
        except CannotWrite as error:
            self._cannot_write = error

    def _keep(self, picture: Picture, folder: OutputFolder, display: Display) -> None:
        """Saves a picture and tells where it is."""
        sidecar = sidecar_of(picture, self.choices)
        attached = None
        if self._recorder is not None:
            hidden, facts = self._recorder.finish()
            attached = Attached("attention", hidden, engine.RECORDED, facts)
        if self.choices.templates:
            sidecar["template"] = self.choices.templates[picture.index]
        name = self._to.name(picture.index)
        image_path, sidecar_path = folder.save_picture(
            *(picture.image, picture.prompt, picture.seed, picture.settings, sidecar),
            writing=self._to.writing,
            name=name,
            attached=attached,
        )
        if name not in (None, image_path.stem):
            display.note(f"{name} was taken meanwhile: {image_path}")
        self._settings = common_settings(picture.settings)
        self.kinds.add(picture.cache)
        self.pictures.append(entry_of(picture, image_path, sidecar_path))
        display.picture_done(picture.index, self._wanted, picture.seconds, picture.prompt)
        if not self.json:
            say(f"{image_path}\n")
        if "json" in self.choices.memory_report:  # a run that is killed leaves what it had
            self._running = self._running or Running(folder)
            self._running.update(len(self.pictures), lambda: self._figures("running"))
        if picture.truncated:
            display.note(f"the prompt was too long; not used: {picture.truncated}")

    def _open(self) -> None:
        """Shows the one picture, or the folder of several."""
        file = self.pictures[0]["file"]
        tell_of_viewer(Path(file) if len(self.pictures) == 1 else self._to.folder, self.console)

    def _report(self, folder: OutputFolder, outcome: str) -> None:
        """Says how the run ended, in every form asked for."""
        report = self._figures(outcome)
        written: list[Path] = []
        try:
            written = write_report(report, folder, self.choices)
        except CannotWrite as error:  # costs the report alone
            self._cannot_write = self._cannot_write or error
            self.console.print(f"no report: {error}", markup=False, soft_wrap=True)
        if not self.choices.quiet:
            show_report(report, written, self.choices, self.console)
        if self.json:
            paths = [picture["file"] for picture in self.pictures]
            facts = {
                "paths": paths,
                "report_path": str(written[0]) if written else None,
                "pictures": self.pictures,
            }
            say_json({**facts, "report": report})

    def _figures(self, outcome: str) -> dict[str, Any]:
        return {
            **self._measured(),
            "outcome": outcome,
            "started": self._clock,
            "settings": self._settings,
            "pictures_wanted": self._wanted,
            "pictures": [with_names(p) for p in self.pictures],
            "seconds": {
                "load": round(self.load_seconds, 3),
                "all": round(time.perf_counter() - self._started, 3),
            },
        }

    @property
    def _wanted(self) -> int:
        return len(self.choices.request.prompts) * self.choices.request.num_images

    def _headline(self) -> str:
        choices = self.choices
        request = choices.request
        budget = "" if request.policy == "full" else f", budget {request.budget}"
        width, height = size_of(choices.preset, request.ratio, request.pixels)
        return (
            f"model {choices.preset.name} ({choices.model.origin}), {width}x{height} pixels, "
            f"policy {request.policy}{budget}, seed {request.seed}"
        )


def figures(measured: ProcessFigures, choices: Choices, kinds: Kinds) -> dict[str, Any]:
    """What a report says of model, machine and memory; `kinds` has the pictures' caches."""
    return {
        "format": FORMAT,
        "version": version("scalekv"),
        "model": {"name": choices.preset.name, "chosen_by": choices.model.origin},
        "device": measured.device,
        "dtype": measured.dtype,
        "weights_dtype": measured.weights_dtype,
        "machine": measured.machine,
        "kinds": kinds.to_list(),
        **({} if measured.text_cache is None else {"text_cache": dict(measured.text_cache)}),
        **memory_report(
            kinds.main,
            measured.weights_bytes,
            measured.peaks,
            measured.present,
            measured.sources,
            choices.sparsity,
            measured.graphs,
            alternative_for(choices.preset.name),
        ),
    }


def write_report(report: Mapping[str, Any], folder: OutputFolder, choices: Choices) -> list[Path]:
    """Puts a report into the folder, in the forms asked for that are files.

    Raises:
        UserError: the folder cannot be written to.
    """
    written = []
    if "json" in choices.memory_report:
        written.append(folder.save_report(report))
    if "html" in choices.memory_report:
        from scalekv.cli.report.page import render

        written.append(folder.save_page(render(report, folder.path)))
    return written


def show_report(
    report: Mapping[str, Any], written: Sequence[Path], choices: Choices, console: Console
) -> None:
    """The figures for people, and where the files with all of them are."""
    if NO_REPORT in choices.memory_report:
        return
    if "table" in choices.memory_report:
        print_table(report, console)
    else:
        # What was not asked for is named in passing.
        plain = [path for path in written if path.suffix == ".json"]
        print_summary(report, console, *map(str, plain[:1]))
        written = [path for path in written if path not in plain]
    for path in written:
        console.print(f"report: {path}", markup=False, soft_wrap=True, style="dim")


def sidecar_of(picture: Picture, choices: Choices) -> dict[str, Any]:
    """What the JSON file beside a picture says of it."""
    return {
        "settings": picture.settings,
        "model_chosen_by": choices.model.origin,
        "truncated": picture.truncated,
        "seconds": round(picture.seconds, 3),
        "cache": {key: value for key, value in picture.cache.items() if key != "scales"},
    }


def common_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What a picture's settings have that is not its own."""
    return {k: v for k, v in settings.items() if k not in ("prompt", "seed")}


def entry_of(picture: Picture, image: Path, sidecar: Path) -> dict[str, Any]:
    """A picture as reports list it."""
    return {
        "file": str(image),
        "sidecar": str(sidecar),
        "prompt": picture.prompt,
        "seed": picture.seed,
        "seconds": round(picture.seconds, 3),
        "truncated": picture.truncated,
    }


def with_names(entry: Mapping[str, Any]) -> dict[str, Any]:
    """An entry with file names without the folder, so that a report stays true when it is moved."""
    return {**entry, **{key: Path(entry[key]).name for key in ("file", "sidecar")}}


def tell_of_viewer(path: Path, console: Console) -> None:
    """Opens a picture or a folder, and says so where nothing can."""
    if why := open_with_viewer(path):
        console.print(f"not opened: {why}; it is {path}", markup=False, soft_wrap=True)


def tell_of_templates(choices: Choices, prompts: Iterable[str], display: Display) -> None:
    """Says so where a prompt looks as if something were to be drawn in it, and nothing is."""
    like = () if choices.wildcards else [p for p in prompts if looks_like_template(p)]
    if like:
        display.note(f"drawn as it stands: {like[0]!r}; --wildcards draws one of {{a|b}}")


def tell_of_idle_budget(settled: Settled, display: Display) -> None:
    """Says so where the budget holds everything although it was not asked to."""
    if settled.idle:
        history = settled.schedule.history
        display.note(
            f"budget {settled.asked.label} drops nothing: all {history} tokens of history fit at "
            "this size"
        )


def tell_of_batches(settled: Settled, device: str, display: Display) -> None:
    """Says so where a batch size was asked for that is not used on a type of device."""
    asked = settled.request.batch_size
    if isinstance(asked, int) and asked > 1 and settled.one_at_a_time_on(device):
        why = (
            "--reproducible"
            if settled.request.reproducible
            else "on a CPU --no-reproducible changes it"
        )
        display.note(f"one picture at a time, for the same bits as alone ({why})")
