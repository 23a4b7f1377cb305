"""Draws a benchmark's pictures into its layout, each once. Knows the order of the steps; what is
drawn and where it lies is known elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from scalekv.infinity_patch.asked.settled import Settled
from scalekv.infinity_patch.benchmarks.layouts import (
    EXPORT,
    ScoredBenchmark,
    save_picture,
    two_by_two,
)
from scalekv.infinity_patch.benchmarks.prompts import BenchmarkPrompt, prompts_hash
from scalekv.infinity_patch.evaluation.captions import Captions
from scalekv.infinity_patch.evaluation.kept import KEY, VARIANT, EvaluationFolder
from scalekv.infinity_patch.evaluation.rows import Part, Row, numbers_of
from scalekv.infinity_patch.evaluation.run import evaluation_settings
from scalekv.infinity_patch.evaluation.variants import CacheVariant
from scalekv.infinity_patch.generation.pipeline import Picture, generate
from scalekv.infinity_patch.loading.loader import Pipeline
from scalekv.infinity_patch.loading.placement import Placement


def export_settings(
    settled: Settled,
    name: str,
    prompts: Sequence[BenchmarkPrompt],
    weights_dir: Path | None,
    placement: Placement,
) -> Row:
    """What all pictures of a folder have in common; others are not added to it."""
    texts = Captions(tuple(prompt.text for prompt in prompts), name)
    common = evaluation_settings(settled, texts, name, weights_dir, placement, None)
    return common | {"prompts_sha256": prompts_hash(prompts)}


@dataclass
class Export:
    """The pictures of a benchmark under each variant.

    Attributes:
        folder: of an evaluation; layouts are in NAME/VARIANT, rows in export-NAME.jsonl.
        name: of the benchmark, with what its prompts were done to.
        prompts: all of them; `limit` of them are drawn.
        settled: how each variant is drawn; prompts and seeds are set here.
        seed: of the first picture of the first prompt; each further picture has the next.
        settings: what all rows have in common.
        part: of the prompts, where others do the rest.
    """

    folder: EvaluationFolder
    benchmark: ScoredBenchmark
    name: str
    prompts: Sequence[BenchmarkPrompt]
    limit: int
    settled: Mapping[CacheVariant, Settled]
    seed: int
    settings: Row
    part: Part | None = None

    def __post_init__(self) -> None:
        self._rows = self.folder.rows(EXPORT + self.name, self.settings, self.part)

    def place(self, variant: CacheVariant) -> Path:
        """The folder that a scorer is given."""
        return self.folder.path / self.name / variant.folder

    @property
    def missing(self) -> int:
        """Files that are still to be made."""
        return sum(len(self._lacking(number, v)) for number in self._numbers for v in self.settled)

    @property
    def _numbers(self) -> range:
        return numbers_of(self.part, min(self.limit, len(self.prompts)))

    def _lacking(self, number: int, variant: CacheVariant) -> list[int]:
        paths = self.benchmark.paths(self.place(variant), self.prompts[number])
        return [place for place, path in enumerate(paths) if not path.is_file()]

    def draw(self, pipeline: Pipeline) -> Iterator[Path]:
        """Draws every picture that is missing; yields each file when it is there. Of a sheet that
        was not finished all pictures are drawn again."""
        for number in self._numbers:
            for variant in self.settled:
                if lacking := self._lacking(number, variant):
                    yield from self._drawn(pipeline, number, variant, lacking)

    def _drawn(
        self, pipeline: Pipeline, number: int, variant: CacheVariant, lacking: Sequence[int]
    ) -> Iterator[Path]:
        benchmark, prompt = self.benchmark, self.prompts[number]
        samples = range(benchmark.samples) if benchmark.sheet else lacking
        first = self.seed + number * benchmark.samples
        settled = self.settled[variant]
        request = replace(
            settled.request,
            prompts=(prompt.text,),
            num_images=len(samples),
            seeds=tuple(first + sample for sample in samples),
        )
        paths = benchmark.paths(self.place(variant), prompt)
        benchmark.save_beside(self.place(variant), prompt)
        pictures: list[Picture] = []
        for picture in generate(pipeline, settled.of(request)):
            pictures.append(picture)
            if not benchmark.sheet:
                path = paths[lacking[len(pictures) - 1]]
                save_picture(picture.image, path)
                yield path
        if benchmark.sheet:
            save_picture(two_by_two([picture.image for picture in pictures]), paths[0])
            yield paths[0]
        self._note(number, variant, pictures)

    def _note(self, number: int, variant: CacheVariant, pictures: Sequence[Picture]) -> None:
        row = {"number": number, **{name: getattr(variant, name) for name in VARIANT}}
        if tuple(row[name] for name in KEY) not in self._rows.done:
            held = ("held_peak_bytes", "full_bytes")
            cache = max((picture.cache for picture in pictures), key=lambda c: int(c[held[0]]))
            self._rows.add(row | {name: cache[name] for name in held})
