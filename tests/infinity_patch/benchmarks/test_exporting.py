"""Pictures in the scorers' layouts, each drawn once; by a stand-in that draws plain colours."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from scalekv.configs.models import model_named
from scalekv.infinity_patch.asked.request import Request
from scalekv.infinity_patch.asked.settled import Settled, settle
from scalekv.infinity_patch.benchmarks import exporting
from scalekv.infinity_patch.benchmarks.exporting import Export
from scalekv.infinity_patch.benchmarks.layouts import BENCHMARKS, two_by_two
from scalekv.infinity_patch.benchmarks.prompts import STYLES, BenchmarkPrompt
from scalekv.infinity_patch.evaluation.kept import EvaluationFolder
from scalekv.infinity_patch.evaluation.variants import FULL_CACHE, CacheVariant
from scalekv.kv.errors import UserError
from tests.infinity_patch.benchmarks.made import DPG, GENEVAL, IMAGEREWARD, STYLE_TEXTS

SMALL = CacheVariant("scalekv", "10%")
FILES = {
    "geneval": {"m.jsonl": GENEVAL},
    "dpg": {"d.csv": DPG},
    "hps": {f"{style}.json": STYLE_TEXTS for style in STYLES},
    "imagereward": {"b.json": IMAGEREWARD},
}
TREES = {
    "geneval": [
        f"{number:05d}/{file}"
        for number in range(2)
        for file in ("metadata.jsonl", *(f"samples/{sample:04d}.png" for sample in range(4)))
    ],
    "dpg": ["partiprompts1.png", "whoops9.png"],
    "hps": [f"{style}/{number:05d}.jpg" for style in STYLES for number in range(2)],
    "imagereward": [f"005695-0057_{sample}.png" for sample in range(10)],
}


@dataclass
class Drawn:
    """A picture whose colour is its seed."""

    seed: int
    policy: str

    @property
    def image(self) -> Image.Image:
        return Image.new("RGB", (8, 8), (self.seed, 0, 0))

    @property
    def cache(self) -> dict[str, Any]:
        return {"held_peak_bytes": 10 if self.policy == "scalekv" else 100, "full_bytes": 100}


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, str]]:
    """What was drawn: prompt, seed, policy."""
    found: list[tuple[str, int, str]] = []

    def generate(_pipeline: object, settled: Settled) -> Iterator[Drawn]:
        request = settled.request
        for number in range(request.pictures):
            seed, policy = request.seed_of(number), settled.policy_name
            found.append((request.prompts[0], seed, policy))
            yield Drawn(seed, policy)

    monkeypatch.setattr(exporting, "generate", generate)
    return found


def prompts_of(name: str) -> list[BenchmarkPrompt]:
    files = {file: text.encode() for file, text in FILES[name].items()}
    return BENCHMARKS[name].read(files)


def export_of(name: str, out: Path, **settings: Any) -> Export:
    preset = model_named("emoji")
    settled = {
        variant: settle(
            Request(("a",), policy=variant.policy, budget=variant.budget), preset, "cpu", "fp32"
        )
        for variant in (FULL_CACHE, SMALL)
    }
    prompts = prompts_of(name)
    common = {"benchmark": name} | settings
    return Export(
        EvaluationFolder(out), BENCHMARKS[name], name, prompts, len(prompts), settled, 7, common
    )


def finish(export: Export) -> int:
    pipeline: Any = None
    return len(list(export.draw(pipeline)))


@pytest.mark.parametrize("name", list(BENCHMARKS))
def test_layouts(name: str, tmp_path: Path, drawn: list[tuple[str, int, str]]) -> None:
    export = export_of(name, tmp_path)
    missing = export.missing
    assert finish(export) == missing
    for variant in (FULL_CACHE, SMALL):
        root = export.place(variant)
        found = sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())
        assert found == sorted(TREES[name])
    pictures = BENCHMARKS[name].samples * len(export.prompts)
    for policy in ("full", "scalekv"):
        assert [seed for _, seed, of in drawn if of == policy] == list(range(7, 7 + pictures))
    again = export_of(name, tmp_path)
    assert again.missing == finish(again) == 0
    assert len(drawn) == 2 * pictures


def test_one_picture_that_is_gone_is_drawn_with_its_seed(
    tmp_path: Path, drawn: list[tuple[str, int, str]]
) -> None:
    finish(export_of("geneval", tmp_path))
    path = tmp_path / "geneval/scalekv-10pct/00001/samples/0002.png"
    path.unlink()
    drawn.clear()
    assert finish(export_of("geneval", tmp_path)) == 1
    assert drawn == [("a photo of two owls", 13, "scalekv")]
    assert Image.open(path).getpixel((0, 0)) == (13, 0, 0)


def test_parts_draw_everything_between_them(
    tmp_path: Path, drawn: list[tuple[str, int, str]]
) -> None:
    for part in ((1, 2), (2, 2)):
        export = export_of("geneval", tmp_path)
        export.part = part
        export.__post_init__()
        assert finish(export) == 8
    assert export_of("geneval", tmp_path).missing == 0
    assert len(drawn) == len(set(drawn)) == 16


def test_a_folder_of_other_prompts_is_not_added_to(
    tmp_path: Path, drawn: list[tuple[str, int, str]]
) -> None:
    export_of("geneval", tmp_path, prompts_sha256="a")
    with pytest.raises(UserError, match="another prompts_sha256"):
        export_of("geneval", tmp_path, prompts_sha256="b")


def test_a_sheet_goes_row_by_row() -> None:
    sheet = two_by_two([Image.new("RGB", (2, 2), (n, 0, 0)) for n in range(4)])
    corners = [sheet.getpixel(at) for at in ((0, 0), (3, 0), (0, 3), (3, 3))]
    assert corners == [(n, 0, 0) for n in range(4)]
