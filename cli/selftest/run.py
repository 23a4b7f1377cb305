"""One run of `selftest`: the checks in their order, and the result in its forms. Knows the order
and what is told; each check is made elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from scalekv.cli import engine
from scalekv.cli.choices import Choices
from scalekv.cli.console import errors
from scalekv.cli.console.errors import Interrupted, Unsuccessful, one_line
from scalekv.cli.console.findings import show_finding
from scalekv.cli.console.interrupts import interruptible, told_how_it_ends
from scalekv.cli.console.progress import Display
from scalekv.cli.console.stdout import say, say_json, to_json
from scalekv.cli.pictures.folder import OutputFolder
from scalekv.cli.pictures.writing import FORMAT
from scalekv.cli.plan.room import check_room, target_of
from scalekv.cli.selftest.anonymous import anonymous
from scalekv.configs.values import AUTO
from scalekv.infinity_patch.planning.health import Finding, Level
from scalekv.kv.errors import UserError

if TYPE_CHECKING:
    from scalekv.infinity_patch import Pipeline, Progress
    from scalekv.infinity_patch.asked.settled import Settled
    from scalekv.infinity_patch.selftest.matrices import MatrixStatistics
    from scalekv.infinity_patch.selftest.parts import KnownPicture
    from scalekv.infinity_patch.selftest.policies import PolicyRun

USUAL, QUICK = 10, 3
"""Prompts."""
STEM = "selftest"


@dataclass
class SelfTest:
    """What a test has so far.

    Args:
        quick: files are opened without comparing hashes.
        official: a checkout of the published code, or None.
        json: one object on stdout instead of a line a finding.
    """

    choices: Choices
    console: Console
    quick: bool = False
    official: Path | None = None
    json: bool = False
    findings: list[Finding] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)
    known: KnownPicture | None = None
    runs: list[PolicyRun] = field(default_factory=list)
    _matrices: dict[str, list[MatrixStatistics]] = field(default_factory=dict)
    _started: float = field(default_factory=time.perf_counter)

    def execute(self) -> None:
        """Does it all; what was found when it ends early is written all the same.

        Raises:
            UserError: refused before anything was tested.
            Unsuccessful: something does not hold.
            Interrupted: by Ctrl-C.
        """
        choices = self.choices
        if self.official is not None and not self.official.expanduser().is_dir():
            raise UserError(
                f"there is no folder {self.official}",
                where="--official",
                rule="the root of a clone of github.com/FoundationVision/Infinity",
                fix="clone it, or leave --official out",
            )
        settled = self._settled()
        folder = OutputFolder(choices.out)
        try:
            with interruptible(), Display(self.console, quiet=choices.quiet) as display:

                def finish(outcome: str) -> None:
                    display.clear()
                    self._write(folder, outcome)

                folder.prepare()
                with told_how_it_ends(finish):
                    self._test(settled, display)
        except KeyboardInterrupt:
            raise Interrupted from None
        finally:
            folder.discard_if_empty()
        problems = sum(finding.level is Level.PROBLEM for finding in self.findings)
        if problems:
            named = dict.fromkeys(f.name for f in self.findings if f.level is Level.PROBLEM)
            count = "1 problem" if problems == 1 else f"{problems} problems"
            raise Unsuccessful(f"{count}: {'; '.join(named)}", "problems")

    def _settled(self) -> Settled:
        choices = self.choices
        target = target_of(choices.device)
        settled = engine.check(
            choices.request, choices.preset, choices.weights_dir, choices.dtype, target.device
        )
        if not choices.force:
            placement = check_room(
                settled, target, choices.placement, choices.weights_dir, cache_is_given=True
            )
            self.choices = replace(choices, placement=placement)
        return settled

    def _test(self, settled: Settled, display: Display) -> None:
        with self._guarded("files"):
            display.stage("files")
            self._tell(self._files(), display)
        with self._guarded("weights"):
            self._weights(display)
        pipeline = self._loaded(display)
        if pipeline is None:
            return
        settled = settled.on(pipeline.device.type, _dtype(pipeline))
        bits: list[Any] = []
        with self._guarded("parts"):
            self._parts(pipeline, settled, display)
        with self._guarded("policies"):
            self._policies(pipeline, settled, display)
            bits = [forced.bits for forced in self.runs[0].forced] if self.runs else []
        if self.official is not None and bits:
            del pipeline
            with self._guarded("published code"):
                self._compare(self.official, settled, bits, display)

    @contextmanager
    def _guarded(self, what: str) -> Iterator[None]:
        """A step whose failure is a finding: the steps after it are made all the same."""
        try:
            yield
        except Exception as error:
            if errors.debugging():
                errors.show_trace(error, self.console)
            if isinstance(error, UserError):
                found = ": ".join(part for part in (error.what, error.rule) if part)
                finding = Finding(what, Level.PROBLEM, found, error.fix)
            else:
                finding = Finding(what, Level.PROBLEM, f"broke: {one_line(error)}", "--verbose")
            self._tell([finding])

    def _tell(self, findings: Iterable[Finding], display: Display | None = None) -> None:
        for finding in findings:
            self.findings.append(finding)
            if display is not None:
                display.clear()
            if not self.json:
                show_finding(finding)

    def _files(self) -> Iterator[Finding]:
        from scalekv.infinity_patch.files.inventory import Verdict, verify

        preset, weights_dir = self.choices.preset, self.choices.weights_dir
        name = f"model {preset.name}"
        if self.quick:
            yield Finding(name, Level.NOTE, "hashes were not compared: --quick")
            return
        verdicts = verify(preset, weights_dir=weights_dir)
        counts = {verdict: [p for p, v in verdicts if v is verdict] for verdict in Verdict}
        for path in counts[Verdict.DAMAGED]:
            fix = "fetch it again, or put the right file there"
            yield Finding(f"{name}, {path.name}", Level.PROBLEM, "is not what its hash says", fix)
        whole, unknown = len(counts[Verdict.WHOLE]), len(counts[Verdict.UNCHECKED])
        self.figures["files"] = {
            str(verdict): sorted(path.name for path in paths) for verdict, paths in counts.items()
        }
        found = f"{whole} files compared with their hashes"
        if unknown:
            yield Finding(name, Level.NOTE, f"{found}; of {unknown} no hash is known")
        elif not counts[Verdict.DAMAGED]:
            yield Finding(name, Level.FINE, found)

    def _weights(self, display: Display) -> None:
        from scalekv.infinity_patch.files.hashes import model_hashes
        from scalekv.infinity_patch.files.hub import model_files
        from scalekv.infinity_patch.selftest.matrices import examine_matrices, matrix_statistics

        paths = model_files(self.choices.preset, self.choices.weights_dir)
        self.figures["weights"] = model_hashes(paths)
        text = paths.text_encoder / "model.safetensors"
        for part, path in (
            ("transformer", paths.transformer),
            ("VAE", paths.vae),
            ("text encoder", text if text.is_file() else paths.text_encoder),
        ):
            display.stage(f"weights of the {part}")
            with self._guarded(part):
                self._matrices[part] = matrix_statistics(path)
                self._tell(examine_matrices(part, self._matrices[part]), display)

    def _loaded(self, display: Display) -> Pipeline | None:
        with self._guarded("loading"):
            display.stage(f"loading {self.choices.preset.name}")
            pipeline = self._load(self.choices.dtype)
            found = "names and shapes are those of the architecture"
            self._tell([Finding("loading", Level.FINE, found)], display)
            self.figures["device"] = str(pipeline.device)
            self.figures["dtype"] = _dtype(pipeline)
            self.figures["weights_dtype"] = pipeline.weights
            self.figures["machine"] = engine.machine(pipeline)
            return pipeline
        return None

    def _load(self, dtype: str, weights: str | None = None) -> Pipeline:
        c = self.choices
        # what is tested is what computes here
        placement = replace(c.placement, weights=weights or c.placement.weights, text_cache=None)
        return engine.load(c.preset, c.device, dtype, c.weights_dir, placement)

    def _parts(self, pipeline: Pipeline, settled: Settled, display: Display) -> None:
        from scalekv.infinity_patch.selftest import matrices, parts

        display.stage("a drawn apple through the model")
        self._tell(parts.examine_tokens(pipeline), display)
        self.known = known = parts.round_trip(pipeline, settled)
        self.figures["round_trip_psnr_db"] = parts.rounded(known.psnr)
        self._tell([parts.examine_round_trip(known)], display)
        trained = matrices.look_trained(self._matrices.get("transformer", []))
        facts, findings = parts.examine_pair(pipeline, settled, known, trained=trained)
        self.figures["known_picture"] = facts
        self._tell(findings, display)

    def _policies(self, pipeline: Pipeline, settled: Settled, display: Display) -> None:
        from scalekv.infinity_patch.selftest import policies

        runs = list(policies.policies_for(settled))
        many = len(self.choices.request.prompts)

        def show(progress: Progress) -> None:
            display.scale_done(progress)

        for run in runs:
            display.stage(f"{many} prompts, {run.label}")
            policies.draw_all(pipeline, run, self.choices.placement, show)
        policies.force_all(
            pipeline,
            runs,
            lambda i: display.status(f"forced bits, prompt {i + 1}/{many}", i + 1, many),
        )
        self.runs = runs
        self._tell([policies.examine_unpatched(pipeline, runs[0])], display)
        self._tell(policies.examine_policies(pipeline, runs), display)

    def _compare(self, checkout: Path, settled: Settled, bits: list[Any], display: Display) -> None:
        from scalekv.infinity_patch.selftest.official import compare_with_official

        facts, findings = compare_with_official(
            checkout.expanduser(),
            partial(self._load, weights=AUTO),  # as the published code holds them
            settled.request,
            bits,
            display.stage,
        )
        self.figures["official"] = facts
        self._tell(findings, display)

    def result(self, outcome: str) -> dict[str, Any]:
        """All that was found, as JSON values that say nothing of whose machine it was."""
        from scalekv.infinity_patch.selftest.policies import figures_of

        problems = sum(finding.level is Level.PROBLEM for finding in self.findings)
        facts = {
            "format": FORMAT,
            "version": version("scalekv"),
            "torch": version("torch"),
            "model": self.choices.preset.name,
            "own_weights": self.choices.weights_dir is not None,
            "outcome": outcome,
            "holds": outcome == "complete" and not problems,
            "problems": problems,
            "findings": [{**vars(f), "level": f.level.value} for f in self.findings],
            "prompts": list(self.choices.request.prompts),
            "seed": self.choices.request.seed,
            **self.figures,
            "sampling": self._sampling(),
            "schedule": str(self.runs[0].settled.schedule) if self.runs else None,
            "policies": [figures_of(run, self.runs[0]) for run in self.runs],
            "matrices": {
                part: [_row(one) for one in listed] for part, listed in self._matrices.items()
            },
            "seconds": round(time.perf_counter() - self._started, 1),
        }
        folders = [self.choices.out.absolute(), self.choices.weights_dir, self.official]
        return dict(anonymous(facts, tuple(f.absolute() for f in folders if f is not None)))

    def _sampling(self) -> dict[str, Any] | None:
        if not self.runs:
            return None
        settled = self.runs[0].settled
        return {name: getattr(settled, name) for name in ("cfg", "tau", "top_p", "cfg_layers")}

    def _write(self, folder: OutputFolder, outcome: str) -> None:
        from scalekv.cli.selftest.page import contact_page, render_selftest

        result = self.result(outcome)
        sheet = contact_page(self.runs, result)
        written = [
            folder.save_numbered(STEM, ".json", to_json(result).encode()),
            folder.save_numbered(
                STEM, ".html", render_selftest(result, self.known, sheet).encode()
            ),
        ]
        if sheet is not None:
            written.append(folder.save_numbered(STEM, ".png", sheet))
        if self.json:
            say_json({"paths": [str(path) for path in written], **result})
        else:
            say("".join(f"{path}\n" for path in written))


def _dtype(pipeline: Pipeline) -> str:
    from scalekv.infinity_patch.selftest.parts import dtype_name

    return dtype_name(pipeline)


def _row(one: MatrixStatistics) -> dict[str, Any]:
    from scalekv.infinity_patch.selftest.parts import rounded

    numbers = {
        name: None if value is None else rounded(value)
        for name, value in vars(one).items()
        if name not in ("name", "shape")
    }
    return {"name": one.name, "shape": list(one.shape), **numbers}
