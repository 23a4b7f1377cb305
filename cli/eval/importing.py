"""`scalekv eval import`: what a benchmark's scorer wrote, into the table of an evaluation."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from scalekv.cli.console.layout import Paragraph
from scalekv.cli.console.stdout import say_json, show
from scalekv.cli.eval.asked import EvaluationAsked
from scalekv.cli.eval.run import EvaluationRun
from scalekv.cli.eval.shown import grid_table
from scalekv.infinity_patch.benchmarks.layouts import EXPORT, benchmark_named
from scalekv.infinity_patch.benchmarks.scores import BenchmarkScore, read_score
from scalekv.infinity_patch.evaluation.kept import (
    PICTURES,
    SCORE_KEY,
    SCORES,
    VARIANT,
    EvaluationFolder,
)
from scalekv.infinity_patch.evaluation.precisions import PRECISIONS, computed_in
from scalekv.infinity_patch.evaluation.rows import Row, files_of_parts
from scalekv.infinity_patch.evaluation.tables import Grid
from scalekv.infinity_patch.evaluation.variants import FULL_CACHE, CacheVariant
from scalekv.kv.budgets.budget import FULL
from scalekv.kv.errors import UserError
from scalekv.kv.policies.registry import check_policy_name
from scalekv.kv.sizes import human_bytes


@dataclass
class ScoresImport:
    """One call of `scalekv eval import`.

    rewritten: whether the pictures are of GenEval's rewritten prompts.
    """

    benchmark: str
    file: Path
    policy: str
    budget: str
    kv_dtype: str
    rewritten: bool
    out: Path
    console: Console
    json: bool = False

    def execute(self) -> None:
        """Reads the scores, keeps them beside the rows of the folder, and shows the table.

        Raises:
            UserError: no such file, or not what the scorer writes; another score is there already.
        """
        benchmark = benchmark_named(self.benchmark)
        check_policy_name(self.policy)
        found = read_score(benchmark.name, self.file)
        variant = CacheVariant(self.policy, self.budget, self.kv_dtype)
        if FULL in (self.policy, self.budget):
            variant = CacheVariant(FULL, FULL, self.kv_dtype)
        folder = EvaluationFolder(self.out)
        name = benchmark.title + (" (rewritten)" if self.rewritten else "")
        drawn = EXPORT + benchmark.export_name(rewritten=self.rewritten)
        self._keep(folder, variant, name, found, _precisions(folder, drawn))
        parts = ", ".join(f"{part} {value:.4g}" for part, value in found.parts.items())
        of = f" of {found.pictures} pictures" if found.pictures else ""
        self.console.print(
            f"{name} {found.value:.6g}{of}" + (f": {parts}" if parts else ""),
            markup=False,
            soft_wrap=True,
        )
        if files_of_parts(self.out, PICTURES):
            EvaluationRun(_nothing_asked(self.out), self.console, json=self.json).report_only()
        else:
            self._show(folder)

    def _keep(
        self,
        folder: EvaluationFolder,
        variant: CacheVariant,
        name: str,
        found: BenchmarkScore,
        precisions: Row,
    ) -> None:
        rows = folder.rows(SCORES, {"scores": 1}, None, SCORE_KEY)
        row: Row = {field: getattr(variant, field) for field in VARIANT}
        row |= {"score": name, "value": found.value, "pictures": found.pictures, **precisions}
        key = tuple(row[field] for field in SCORE_KEY)
        for known in rows.rows:
            same = all(known[field] == row[field] for field in SCORE_KEY)
            if same and known["value"] != found.value:
                raise UserError(
                    f"{name} of {variant.policy} {variant.budget} is there already: "
                    f"{known['value']:.6g}, now {found.value:.6g}",
                    where=str(rows.path),
                    rule="a score is imported once",
                    fix="take its line out of that file, or name another --out",
                )
        if key not in rows.done:
            rows.add(row | {"parts": dict(found.parts)})

    def _show(self, folder: EvaluationFolder) -> None:
        """The scores alone, where no pictures were compared with the full cache's."""
        scores = folder.found(SCORES, SCORE_KEY)
        if self.json:
            say_json({"scores": scores})
        else:
            show(
                grid_table(scores_grid(scores, held_by_variant(folder))),
                *(
                    Paragraph(f"{name.removeprefix(EXPORT)}: {computed_in(folder.settings(name))}")
                    for name in _exports(folder)
                ),
            )


def scores_grid(scores: list[Row], held: dict[CacheVariant, int]) -> Grid:
    """A line a variant, a column a score."""
    names = sorted({str(row["score"]) for row in scores})
    by_variant: dict[CacheVariant, dict[str, Any]] = {}
    for row in scores:
        variant = CacheVariant(*(row[field] for field in VARIANT))
        by_variant.setdefault(variant, {})[str(row["score"])] = row["value"]
    order = sorted(by_variant, key=lambda v: (v != FULL_CACHE, v.policy, v.budget, v.kv_dtype))
    rows = [
        [
            variant.short_policy,
            variant.short_budget,
            variant.kv_dtype,
            human_bytes(held[variant]) if variant in held else "",
            *(f"{found[name]:.4g}" if name in found else "" for name in names),
        ]
        for variant, found in ((variant, by_variant[variant]) for variant in order)
    ]
    return Grid(["policy", "budget", "held as", "held", *names], rows)


def held_by_variant(folder: EvaluationFolder) -> dict[CacheVariant, int]:
    """The most bytes that each variant held while pictures were drawn for a benchmark."""
    held: dict[CacheVariant, int] = {}
    for name in _exports(folder):
        for row in folder.found(name):
            variant = CacheVariant(*(row[field] for field in VARIANT))
            held[variant] = max(held.get(variant, 0), int(row["held_peak_bytes"]))
    return held


def _exports(folder: EvaluationFolder) -> list[str]:
    """Names of the rows about pictures that were drawn for benchmarks."""
    files = folder.path.glob(f"{EXPORT}*.jsonl")
    return sorted({re.sub(r"(-\d+of\d+)?\.jsonl$", "", path.name) for path in files})


def _precisions(folder: EvaluationFolder, drawn: str) -> Row:
    """In what the pictures that were scored were drawn, as far as the folder says.

    Raises:
        UserError: in another than those of the evaluation there.
    """
    scored, compared = folder.settings(drawn), folder.settings(PICTURES)
    for name in PRECISIONS:
        if scored and compared and scored[name] != compared[name]:
            raise UserError(
                f"the pictures that were scored are of another {name} than those of the "
                f"evaluation: {scored[name]}, not {compared[name]}",
                where=str(folder.path),
                rule="figures of one table are of pictures that were drawn in one precision",
                fix="keep the export in a folder of its own, and name that as --out",
            )
    return {name: scored[name] for name in PRECISIONS if scored}


def _nothing_asked(out: Path) -> EvaluationAsked:
    return EvaluationAsked("preset", None, None, (), (), (), (), False, None, out, {})
