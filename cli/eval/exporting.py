"""`scalekv eval export`: a benchmark's pictures in the layout that its scorer reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from scalekv.cli import engine
from scalekv.cli.choices import FULL, Choices, Options, choose
from scalekv.cli.console.errors import Interrupted
from scalekv.cli.console.interrupts import interruptible, raise_lost
from scalekv.cli.console.progress import Display
from scalekv.cli.console.stdout import say, say_json
from scalekv.cli.eval.asked import settle_variants, words_named
from scalekv.cli.generate.destination import refuse_file
from scalekv.configs.values import AUTO
from scalekv.infinity_patch.benchmarks.layouts import REWRITTEN, ScoredBenchmark, benchmark_named
from scalekv.infinity_patch.benchmarks.prompts import BenchmarkPrompt, rewritten_prompts
from scalekv.infinity_patch.benchmarks.sources import read_files
from scalekv.infinity_patch.evaluation.rows import Part
from scalekv.infinity_patch.evaluation.variants import CacheVariant, cache_variants
from scalekv.kv.errors import UserError

if TYPE_CHECKING:
    from scalekv.infinity_patch.asked.settled import Settled
    from scalekv.infinity_patch.benchmarks.exporting import Export

FETCHED = "on"
"""The value of --rewritten that fetches the list."""


@dataclass(frozen=True)
class ExportAsked:
    """What was asked for, as it was typed; see the command's help."""

    benchmark: str
    prompts: Path | None
    rewritten: str | None
    limit: int | None
    policies: Sequence[str]
    budgets: Sequence[str]
    kv_dtypes: Sequence[str]
    part: Part | None
    out: Path
    typed: Mapping[str, Any]

    def listed_prompts(self, benchmark: ScoredBenchmark) -> list[BenchmarkPrompt]:
        """The prompts that are drawn, fetched where no file is named.

        Raises:
            UserError: they cannot be had, or are not what they should be.
        """
        if self.rewritten is not None and benchmark.name != "geneval":
            raise UserError(
                f"there are no rewritten prompts of {benchmark.title}",
                where="--rewritten",
                rule="Infinity's authors rewrote those of GenEval",
                fix="leave --rewritten out, or name a file of yours with --prompts",
            )
        kept, source = self.out / "prompts", benchmark.source
        if self.prompts is None:
            files = source.fetched(kept)
        else:
            files = read_files(self.prompts, source.names)
        prompts = benchmark.read(files)
        if self.rewritten is None:
            return prompts
        if self.rewritten == FETCHED:
            found = REWRITTEN.fetched(kept)
        else:
            found = read_files(Path(self.rewritten), REWRITTEN.names)
        ((name, content),) = found.items()
        return rewritten_prompts(prompts, content, name)


@dataclass
class ExportRun:
    """One call of `scalekv eval export`."""

    asked: ExportAsked
    console: Console
    json: bool = False

    def execute(self) -> None:
        """Draws what is missing; what was finished is kept whenever it ends.

        Raises:
            UserError: refused, before or during the run.
            Interrupted: by Ctrl-C.
        """
        asked = self.asked
        refuse_file(asked.out, "eval export")
        benchmark = benchmark_named(asked.benchmark)
        choices = self._choices()
        prompts = asked.listed_prompts(benchmark)
        choices, settled = self._settled(choices)
        drawn = 0
        try:
            with interruptible(), Display(self.console, quiet=choices.quiet) as display:
                export = self._export(benchmark, prompts, choices, settled)
                missing = export.missing
                display.note(
                    f"{benchmark.title}, model {choices.preset.name} ({choices.model.origin}): "
                    f"{export.limit} of {len(prompts)} prompts, {benchmark.samples} pictures each, "
                    f"{len(settled)} caches; {missing} files to make"
                )
                if missing:
                    display.stage(f"loading {choices.preset.name}")
                    pipeline = engine.load(
                        choices.preset,
                        choices.device,
                        choices.dtype,
                        choices.weights_dir,
                        choices.placement,
                    )
                    for path in export.draw(pipeline):
                        raise_lost()
                        drawn += 1
                        name = path.relative_to(asked.out)
                        display.status(f"{drawn}/{missing} {name}", drawn, missing)
        except KeyboardInterrupt:
            raise Interrupted(drawn, str(asked.out)) from None
        self._tell(benchmark, export, choices)

    def _choices(self) -> Choices:
        own = {"policy": FULL, "budget": FULL, "kv_dtype": AUTO, "num_images": 1, "truncate": True}
        choices = choose(Options((), {**self.asked.typed, **own, "reproducible": True}))
        choices.seeds.one("eval export")
        return choices

    def _settled(self, choices: Choices) -> tuple[Choices, dict[CacheVariant, Settled]]:
        several = (self.asked.policies, self.asked.budgets, self.asked.kv_dtypes)
        policies, budgets, kv_dtypes = map(words_named, several)
        variants = cache_variants(policies or [FULL], budgets or ["10%"], kv_dtypes or [AUTO])
        return settle_variants(choices, variants, ("a picture",))

    def _export(
        self,
        benchmark: ScoredBenchmark,
        prompts: list[BenchmarkPrompt],
        choices: Choices,
        settled: Mapping[CacheVariant, Settled],
    ) -> Export:
        from scalekv.infinity_patch.benchmarks.exporting import Export, export_settings
        from scalekv.infinity_patch.evaluation.kept import EvaluationFolder

        asked = self.asked
        name = benchmark.export_name(rewritten=asked.rewritten is not None)
        return Export(
            EvaluationFolder(asked.out),
            benchmark,
            name,
            prompts,
            min(asked.limit or len(prompts), len(prompts)),
            settled,
            choices.request.seed,
            export_settings(
                next(iter(settled.values())), name, prompts, choices.weights_dir, choices.placement
            ),
            asked.part,
        )

    def _tell(self, benchmark: ScoredBenchmark, export: Export, choices: Choices) -> None:
        from scalekv.infinity_patch.schedules import size_of

        request = choices.request
        side = min(size_of(choices.preset, request.ratio, request.pixels))
        places = {variant: export.place(variant) for variant in export.settled}
        if self.json:
            found = [
                {"policy": v.policy, "budget": v.budget, "kv_dtype": v.kv_dtype, "folder": str(p)}
                for v, p in places.items()
            ]
            say_json({"benchmark": export.name, "missing": export.missing, "folders": found})
            return
        say("".join(f"{place}\n" for place in places.values()))
        if not choices.quiet:
            place = next(iter(places.values()))
            words = {"folder": place, "parent": place.parent, "variant": place.name, "side": side}
            line = benchmark.scorer.format(**words)
            self.console.print(
                f"its scorer, for the first: {line}", markup=False, soft_wrap=True, highlight=False
            )
