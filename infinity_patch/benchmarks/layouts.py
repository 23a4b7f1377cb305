"""The benchmarks by name: where their prompts are from, how many pictures of each they want, and
how their scorers want them to lie. Knows names and formats; draws nothing. No torch.

Layouts are as the scorers' published code reads them: github.com/djghosh13/geneval
(evaluation/evaluate_images.py), TencentQQGYLab/ELLA (dpg_bench/compute_dpg_bench.py), tgxs002/HPSv2
(hpsv2/evaluation.py) and THUDM/ImageReward (test-benchmark.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from scalekv.configs.whole_files import replacing
from scalekv.infinity_patch.benchmarks.prompts import (
    STYLES,
    BenchmarkPrompt,
    Contents,
    dpg_prompts,
    geneval_prompts,
    hps_prompts,
    imagereward_prompts,
)
from scalekv.infinity_patch.benchmarks.sources import PromptSource
from scalekv.kv.errors import check_one_of

JPEG_QUALITY = 95
"""As OpenCV writes what Infinity's own scripts hand to HPSv2."""

EXPORT = "export-"
"""What names of rows about a benchmark's pictures begin with, in the folder of an evaluation."""

SHEET = 2
"""Pictures beside and below one another on DPG-Bench's sheets."""


@dataclass(frozen=True)
class ScoredBenchmark:
    """One benchmark.

    Attributes:
        name, title: for the command line, for people.
        samples: pictures of each prompt.
        source, read: of its prompts.
        file: (place of a prompt, number of a picture) -> path in its folder.
        sheet: whether all pictures of a prompt are one file, 2 x 2.
        scorer: what its authors run on the folder, with {folder} in it.
    """

    name: str
    title: str
    samples: int
    source: PromptSource
    read: Callable[[Contents], list[BenchmarkPrompt]]
    file: Callable[[str, int], str]
    scorer: str
    sheet: bool = False

    def export_name(self, *, rewritten: bool) -> str:
        """What its pictures' folder is called, by what was done to their prompts."""
        return self.name + ("-rewritten" if rewritten else "")

    def paths(self, folder: Path, prompt: BenchmarkPrompt) -> list[Path]:
        """The files of a prompt's pictures: one each, or the sheet."""
        count = 1 if self.sheet else self.samples
        return [folder / self.file(prompt.place, number) for number in range(count)]

    def save_beside(self, folder: Path, prompt: BenchmarkPrompt) -> None:
        """Writes what the scorer wants beside a prompt's pictures."""
        if prompt.metadata:
            path = folder / prompt.place / "metadata.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as hidden:
                hidden.write_text(prompt.metadata, encoding="utf-8")


BENCHMARKS = {
    one.name: one
    for one in (
        ScoredBenchmark(
            "geneval",
            "GenEval",
            4,
            PromptSource(
                "djghosh13/geneval",
                ("prompts/evaluation_metadata.jsonl",),
                "main",
            ),
            geneval_prompts,
            lambda place, number: f"{place}/samples/{number:04d}.png",
            "python evaluation/evaluate_images.py {folder} --outfile results.jsonl",
        ),
        ScoredBenchmark(
            "dpg",
            "DPG-Bench",
            SHEET * SHEET,
            PromptSource(
                "TencentQQGYLab/ELLA",
                ("dpg_bench/dpg_bench.csv",),
                "main",
            ),
            dpg_prompts,
            lambda place, _: f"{place}.png",
            "python dpg_bench/compute_dpg_bench.py --image-root-path {folder} --resolution {side} "
            "--pic-num 4 --res-path results.txt",
            sheet=True,
        ),
        ScoredBenchmark(
            "hps",
            "HPSv2.1",
            1,
            PromptSource("zhwang/HPDv2", tuple(f"benchmark/{style}.json" for style in STYLES)),
            hps_prompts,
            lambda place, _: f"{place}.jpg",
            "python -c \"import hpsv2; hpsv2.evaluate('{folder}', hps_version='v2.1')\" "
            "| tee results.txt",
        ),
        ScoredBenchmark(
            "imagereward",
            "ImageReward",
            10,
            PromptSource(
                "THUDM/ImageReward",
                ("benchmark/benchmark-prompts.json",),
                "1beb4e4de0932acbe7fc090c51208048b6269b58",
            ),
            imagereward_prompts,
            lambda place, number: f"{place}_{number}.png",
            "python test-benchmark.py --benchmark ImageReward-v1.0 --img_dir {parent} "
            "--model {variant}",
        ),
    )
}

REWRITTEN = PromptSource(
    "FoundationVision/Infinity", ("evaluation/gen_eval/prompt_rewrite_cache.json",), "main"
)
"""GenEval's prompts as a language model wrote them anew for Infinity's own figures."""


def benchmark_named(name: str) -> ScoredBenchmark:
    """A benchmark by its name.

    Raises:
        UserError: there is none of that name.
    """
    check_one_of(name, BENCHMARKS, f"no benchmark {name!r}", "BENCHMARK")
    return BENCHMARKS[name]


def save_picture(image: Image.Image, path: Path) -> None:
    """Writes a picture, whole at any moment, in the format that its name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    form = {".png": "png", ".jpg": "jpeg"}[path.suffix]
    with replacing(path) as hidden, hidden.open("wb") as file:
        image.save(file, form, **({"quality": JPEG_QUALITY} if form == "jpeg" else {}))


def two_by_two(images: Sequence[Image.Image]) -> Image.Image:
    """The sheet of four pictures of one size, row after row."""
    width, height = images[0].size
    sheet = Image.new("RGB", (SHEET * width, SHEET * height))
    for number, image in enumerate(images):
        row, column = divmod(number, SHEET)
        sheet.paste(image, (column * width, row * height))
    return sheet
