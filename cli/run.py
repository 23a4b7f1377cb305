"""One run of `generate`: check, load, make pictures, keep each as it is done, report.

Knows the order of things and what is told to whom; how each is done is others' business.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from scalekv.cli import engine
from scalekv.cli.choices import Choices
from scalekv.cli.errors import Interrupted, PipeClosed
from scalekv.cli.interrupts import interrupts_wait
from scalekv.cli.output import FORMAT, OutputFolder, to_json
from scalekv.cli.progress import Display
from scalekv.cli.report import largest_cache, memory_report, print_table

if TYPE_CHECKING:
    from scalekv.infinity_patch import Picture, Pipeline, Request


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
    caches: list[dict[str, Any]] = field(default_factory=list)
    load_seconds: float = 0.0
    _started: float = field(default_factory=time.perf_counter)
    _clock: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    _settings: dict[str, Any] = field(default_factory=dict)
    _pipe_closed: bool = False

    def execute(self) -> None:
        """Does it all.

        Raises:
            UserError: refused, before or during the run; finished pictures are kept.
            Interrupted: by Ctrl-C; likewise.
            PipeClosed: at the end, where nobody read stdout.
        """
        choices = self.choices
        try:
            engine.check(choices.request, choices.preset, choices.weights_dir, choices.dtype)
        except KeyboardInterrupt:
            raise Interrupted(0, "") from None
        folder = OutputFolder(choices.out)
        try:
            with Display(self.console, quiet=self.choices.quiet) as display:
                folder.prepare()
                display.note(self._headline())
                display.stage(f"loading {choices.preset.name}")
                pipeline = engine.load(
                    choices.preset, choices.device, choices.dtype, choices.weights_dir
                )
                tell_of_batches(choices.request, pipeline, display)
                self.load_seconds = time.perf_counter() - self._started
                self._generate(pipeline, folder, display)
        except KeyboardInterrupt:
            raise Interrupted(len(self.pictures), str(choices.out)) from None
        finally:
            folder.discard_if_empty()
        if self._pipe_closed:
            raise PipeClosed

    def _generate(self, pipeline: Pipeline, folder: OutputFolder, display: Display) -> None:
        outcome = "failed"
        pictures = engine.generate(
            pipeline, self.choices.request, display.scale_done, display.smaller_batch
        )
        try:
            for picture in pictures:
                with interrupts_wait():
                    self._keep(pipeline, picture, folder, display)
            outcome = "complete"
        except KeyboardInterrupt:
            outcome = "interrupted"
            raise
        finally:
            with interrupts_wait():
                engine.release(pictures)
                display.clear()
                if outcome == "complete" or self.pictures:
                    self._report(pipeline, folder, outcome)

    def _keep(
        self, pipeline: Pipeline, picture: Picture, folder: OutputFolder, display: Display
    ) -> None:
        """Saves a picture and tells where it is."""
        cache = {key: value for key, value in picture.cache.items() if key != "scales"}
        sidecar = {
            "settings": picture.settings,
            "model_chosen_by": self.choices.model.origin,
            "truncated": picture.truncated,
            "seconds": round(picture.seconds, 3),
            "cache": cache,
        }
        image_path, sidecar_path = folder.save_picture(
            picture.image, picture.prompt, picture.seed, picture.settings, sidecar
        )
        self._settings = {k: v for k, v in picture.settings.items() if k not in ("prompt", "seed")}
        self.caches.append(picture.cache)
        self.pictures.append(
            {
                "file": str(image_path),
                "sidecar": str(sidecar_path),
                "prompt": picture.prompt,
                "seed": picture.seed,
                "seconds": round(picture.seconds, 3),
                "truncated": picture.truncated,
            }
        )
        display.picture_done(picture.index, self._wanted, picture.seconds, picture.prompt)
        if "json" in self.choices.memory_report:  # a run that is killed leaves what it had
            folder.save_report(self._figures(pipeline, "running"))
        if picture.truncated:
            display.note(f"the prompt was too long; not used: {picture.truncated}")
        if not self.json:
            self._say(f"{image_path}\n")

    def _report(self, pipeline: Pipeline, folder: OutputFolder, outcome: str) -> None:
        """Says how the run ended, in every form asked for."""
        report = self._figures(pipeline, outcome)
        forms = self.choices.memory_report
        written = []
        if "json" in forms:
            written.append(folder.save_report(report))
        if "html" in forms:
            from scalekv.cli.report_page import render

            written.append(folder.save_page(render(report, folder.path)))
        if not self.choices.quiet:
            if "table" in forms:
                print_table(report, self.console)
            for path in written:
                self.console.print(f"report: {path}", markup=False, soft_wrap=True, style="dim")
        if self.json:
            paths = [picture["file"] for picture in self.pictures]
            said = {
                "paths": paths,
                "report_path": str(written[0]) if written else None,
                "pictures": self.pictures,
            }
            self._say(to_json({**said, "report": report}))

    def _figures(self, pipeline: Pipeline, outcome: str) -> dict[str, Any]:
        stages = pipeline.stages
        return {
            "format": FORMAT,
            "version": version("scalekv"),
            "outcome": outcome,
            "model": {
                "name": self.choices.preset.name,
                "chosen_by": self.choices.model.origin,
            },
            "device": str(pipeline.device),
            "dtype": str(pipeline.dtype).removeprefix("torch."),
            "started": self._clock,
            "machine": engine.machine(pipeline),
            "settings": self._settings,
            "pictures_wanted": self._wanted,
            "pictures": [{**p, **_names(p)} for p in self.pictures],
            "seconds": {
                "load": round(self.load_seconds, 3),
                "all": round(time.perf_counter() - self._started, 3),
            },
            **memory_report(
                largest_cache(self.caches), pipeline.weights_bytes, stages.peaks(), stages.sources
            ),
        }

    @property
    def _wanted(self) -> int:
        return len(self.choices.request.prompts) * self.choices.request.num_images

    def _headline(self) -> str:
        choices = self.choices
        request = choices.request
        budget = "" if request.policy == "full" else f", budget {request.budget}"
        return (
            f"model {choices.preset.name} ({choices.model.origin}), "
            f"policy {request.policy}{budget}, seed {request.seed}"
        )

    def _say(self, text: str) -> None:
        """Writes to stdout at once. A reader that left costs no picture."""
        if self._pipe_closed:
            return
        try:
            sys.stdout.write(text)
            sys.stdout.flush()
        except BrokenPipeError:
            self._pipe_closed = True
            silence_stdout()


def tell_of_batches(request: Request, pipeline: Pipeline, display: Display) -> None:
    """Says so where a batch size was asked for that is not used."""
    from scalekv.infinity_patch.request import one_at_a_time

    asked = request.batch_size
    if isinstance(asked, int) and asked > 1 and one_at_a_time(request, pipeline.device.type):
        why = "--reproducible" if request.reproducible else "on a CPU --no-reproducible changes it"
        display.note(f"one picture at a time, for the same bits as alone ({why})")


def silence_stdout() -> None:
    """Lets what is still buffered for a closed pipe go nowhere, at the interpreter's end too."""
    try:
        descriptor = sys.stdout.fileno()
    except (OSError, ValueError):
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


def _names(picture: dict[str, Any]) -> dict[str, str]:
    """File names without the folder: the report stays true when its folder is moved."""
    return {key: Path(picture[key]).name for key in ("file", "sidecar")}
