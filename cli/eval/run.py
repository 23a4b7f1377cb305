"""One run of `scalekv eval`: the order of its steps, and what people see of it. What is drawn and
measured is known to `infinity_patch.evaluation`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rich.console import Console

from scalekv.cli import engine
from scalekv.cli.console.errors import Interrupted
from scalekv.cli.console.interrupts import interruptible, interrupts_wait, raise_lost
from scalekv.cli.console.progress import Display
from scalekv.cli.console.stdout import say_json, to_json
from scalekv.cli.eval.asked import (
    NETWORK_NAMES,
    EvaluationAsked,
    EvaluationSettled,
    settle_evaluation,
)
from scalekv.cli.eval.shown import show_result
from scalekv.cli.generate.destination import refuse_file
from scalekv.configs.whole_files import replace_text
from scalekv.infinity_patch.machine.machine import limit_spinning
from scalekv.kv.errors import UserError
from scalekv.kv.extras import needs

if TYPE_CHECKING:
    from scalekv.infinity_patch import Pipeline
    from scalekv.infinity_patch.evaluation.rows import Row
    from scalekv.infinity_patch.evaluation.run import Evaluation

RESULT, REPORT, LATEX, PLOT = "result.json", "report.md", "table.tex", "plot.png"
NOT_ASKED = "not asked for"


@dataclass
class EvaluationRun:
    """A run, and what it could not do so far.

    left_out: measures -> why they are not taken.
    """

    asked: EvaluationAsked
    console: Console
    json: bool = False
    left_out: dict[str, str] = field(default_factory=dict)

    def execute(self) -> None:
        """Draws and measures what is missing, then reports. What was finished is kept whenever it
        ends.

        Raises:
            UserError: refused, before or during the run.
            Interrupted: by Ctrl-C.
        """
        refuse_file(self.asked.out, "eval")
        needs("torchmetrics", "the evaluation")
        settled = settle_evaluation(self.asked)
        limit_spinning()  # before torch is imported, which networks do
        networks = self._networks(settled.networks)
        drawn = 0
        try:
            with (
                interruptible(),
                Display(self.console, quiet=settled.choices.quiet) as display,
            ):
                evaluation = self._prepared(settled)
                display.note(self._headline(settled, evaluation))
                for _ in self._draw(settled, evaluation, display):
                    drawn += 1
                self._look(evaluation, networks, display)
                with interrupts_wait():
                    display.clear()
                    self._report()
        except KeyboardInterrupt:
            raise Interrupted(drawn, str(self.asked.out)) from None

    def report_only(self) -> None:
        """Reports on what is in the folder; draws and loads nothing.

        Raises:
            UserError: nothing is there.
        """
        self._networks(self.asked.networks)
        self._report()

    def _report(self) -> None:
        """Writes the result of what is in the folder, and shows it."""
        from scalekv.infinity_patch.evaluation.kept import EvaluationFolder
        from scalekv.infinity_patch.evaluation.run import summed_up
        from scalekv.infinity_patch.evaluation.tables import latex, quality, report

        out = self.asked.out
        left_out = dict.fromkeys(NETWORK_NAMES, NOT_ASKED) | {"forced": NOT_ASKED} | self.left_out
        result = summed_up(EvaluationFolder(out), left_out)
        replace_text(out / RESULT, to_json(result))
        replace_text(out / REPORT, report(result))
        replace_text(out / LATEX, latex(quality(result)))
        self._plot(result)
        if self.json:
            say_json(result)
        else:
            show_result(result)

    def _plot(self, result: dict[str, Any]) -> None:
        from importlib.util import find_spec

        if find_spec("matplotlib") is None:
            self.console.print("no plot: matplotlib is not installed", style="dim")
            return
        from scalekv.infinity_patch.evaluation.plot import plot_quality

        plot_quality(result, self.asked.out / PLOT)

    def _networks(self, named: tuple[str, ...] | None) -> list[str]:
        """The networks that are to look, of those that are here; why others do not is noted.

        Raises:
            UserError: one that was named lacks a package.
        """
        from scalekv.infinity_patch.evaluation.networks import NETWORKS

        wanted = NETWORK_NAMES if named is None else named
        for name in wanted:
            if why := NETWORKS[name].missing:
                if named is not None:
                    raise UserError(
                        f"{NETWORKS[name].title} cannot be measured: {why}",
                        where="--measure",
                        rule="its network is brought by packages that scalekv does not need",
                        fix=f"pip install {NETWORKS[name].installed_by}, or leave {name} out",
                    )
                self.left_out[name] = why
        return [name for name in wanted if name not in self.left_out]

    def _prepared(self, settled: EvaluationSettled) -> Evaluation:
        import torch

        from scalekv.infinity_patch.evaluation.kept import EvaluationFolder
        from scalekv.infinity_patch.evaluation.run import Evaluation, evaluation_settings
        from scalekv.infinity_patch.evaluation.variants import FULL_CACHE

        choices = settled.choices
        full = settled.settled[FULL_CACHE]
        threads = choices.placement.threads or torch.get_num_threads()
        common = evaluation_settings(
            full,
            settled.captions,
            settled.protocol.name,
            choices.weights_dir,
            choices.placement,
            threads if full.device == "cpu" else None,
        )
        return Evaluation(
            EvaluationFolder(self.asked.out),
            settled.captions,
            settled.limit,
            settled.settled,
            choices.request.seed,
            common,
            self.asked.part,
        )

    def _draw(
        self, settled: EvaluationSettled, evaluation: Evaluation, display: Display
    ) -> Iterator[Row]:
        """Loads the model where there is something to draw."""
        pictures = evaluation.missing
        if not pictures and not (self.asked.agreement and evaluation.unforced):
            return
        choices = settled.choices
        display.stage(f"loading {choices.preset.name}")
        pipeline = engine.load(
            choices.preset, choices.device, choices.dtype, choices.weights_dir, choices.placement
        )
        for number, row in enumerate(evaluation.draw(pipeline, _machine(pipeline))):
            raise_lost()
            display.status(_said(number, pictures, "drawn", row), number + 1, pictures)
            yield row
        if self.asked.agreement:
            count = evaluation.unforced
            for number, row in enumerate(evaluation.force(pipeline)):
                raise_lost()
                display.status(_said(number, count, "forced", row), number + 1, count)

    def _look(self, evaluation: Evaluation, networks: list[str], display: Display) -> None:
        from scalekv.infinity_patch.evaluation.networks import NETWORKS, Missing

        for name in networks:
            title, make = NETWORKS[name].title, NETWORKS[name].make
            try:
                rows = evaluation.compare_folders() if make is None else evaluation.look(name, make)
                for number, row in enumerate(rows, start=1):
                    raise_lost()
                    which = f"{row['policy']} {row['budget']}"
                    display.status(f"{title}  {which}  number {number}", number, number)
            except Missing as missing:
                self.left_out[name] = str(missing)

    def _headline(self, settled: EvaluationSettled, evaluation: Evaluation) -> str:
        choices = settled.choices
        part = "" if self.asked.part is None else " of part {} of {}".format(*self.asked.part)
        return (
            f"protocol {settled.protocol.name}, model {choices.preset.name} "
            f"({choices.model.origin}): {len(evaluation.numbers)} captions{part}, "
            f"{len(settled.settled)} caches, {evaluation.missing} pictures to draw"
        )


def _machine(pipeline: Pipeline) -> str:
    """What computes, as its maker calls it."""
    facts = engine.machine(pipeline)
    return facts.get("device_name") or f"{facts['processor']}, {engine.computes_on(pipeline)}"


def _said(number: int, count: int, what: str, row: Row) -> str:
    return f"{number + 1}/{count} {what}  {row['policy']} {row['budget']}  caption {row['number']}"
