"""The generation script: whom it asks for what, and that a judge is judged fairly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from scalekv.infinity_patch.evaluation.rows import Rows
from scalekv.infinity_patch.evaluation.variants import FULL_CACHE, CacheVariant
from scripts.builtin.captions import Row, load_heldout
from scripts.builtin.dataset import SIZE
from scripts.builtin.scorer import FEATURES, Scorer, as_judged, load_scorer
from scripts.evaluate.generation import (
    CHOICES,
    GROUPS,
    KEY,
    by_prompt,
    choices_for,
    hits,
    main,
    prompts_of,
    table,
)
from scripts.evaluate.measures import kernel_distance


def made_up(number: int) -> list[Row]:
    found = []
    for i in range(number):
        for style in ("flat", "noto"):
            found.append(
                {
                    "id": f"{i}.{style}",
                    "concept": f"thing {i}",
                    "style": style,
                    "heldout_concept": i % 3 == 1,
                    "heldout_style": i % 3 == 2 and style == "noto",
                }
            )
    return found


def test_every_group_gets_its_own_concepts_once() -> None:
    rows = made_up(150)
    chosen = prompts_of(rows, 40)
    assert [group for group, _ in chosen] == [name for name in GROUPS for _ in range(40)]
    for group in GROUPS:
        concepts = [row["concept"] for its, row in chosen if its == group]
        assert len(set(concepts)) == 40
    assert all(row["heldout_concept"] for group, row in chosen if group == "new")
    assert all(row["heldout_style"] for group, row in chosen if group == "style")
    assert prompts_of(rows, 40) == chosen


def test_the_choices_are_the_rows_own_and_99_others_in_its_style() -> None:
    rows = made_up(150)
    choices = choices_for(rows[7], rows, 3)
    assert len(choices) == len(set(choices)) == CHOICES
    assert choices[0] == rows[7]["concept"]
    assert choices_for(rows[7], rows, 3) == choices != choices_for(rows[7], rows, 4)


def rows_of(path: Path, judged: dict[CacheVariant, list[list[int]]]) -> Rows:
    """Rows of what a judge said: by variant, prompt and image."""
    found = Rows.open(path, {}, KEY)
    for variant, prompts in judged.items():
        for number, images in enumerate(prompts):
            for image, its in enumerate(images):
                found.add(
                    {
                        "id": str(number),
                        "image": image,
                        "policy": variant.policy,
                        "budget": variant.budget,
                        "group": "trained",
                        "rank": its,
                    }
                )
    return found


LESS = CacheVariant("scalekv", "10%")


def test_differences_are_paired(tmp_path: Path) -> None:
    wrong = {FULL_CACHE: 4, LESS: 5}
    found = rows_of(
        tmp_path / "rows.jsonl",
        {variant: [[3 if i < n else 0] for i in range(10)] for variant, n in wrong.items()},
    )
    assert sum(hits(found, ["trained"], FULL_CACHE).values()) == 6
    lines = table(found, [FULL_CACHE, LESS], {FULL_CACHE: 0.5}).splitlines()
    assert any(line.startswith("| all | full | full | 10 | 10 | 0.600 (") for line in lines)
    assert any(line.startswith("| trained on | full | full | 10 | 10 | 0.600 (") for line in lines)
    (line,) = [x for x in lines if x.startswith("| trained on | scalekv | 10% | 10 | 10 | 0.500 (")]
    assert "| -0.100 (-0.300 to +0.000) |" in line


def test_a_prompt_counts_once_however_many_pictures_it_has(tmp_path: Path) -> None:
    found = rows_of(tmp_path / "rows.jsonl", {FULL_CACHE: [[0, 0, 5], [7]], LESS: [[0], [0]]})
    assert by_prompt(hits(found, ["trained"], FULL_CACHE)) == {"0": pytest.approx(2 / 3), "1": 0}
    lines = table(found, [FULL_CACHE, LESS], {}).splitlines()
    assert any(line.startswith("| all | full | full | 2 | 4 | 0.333 (") for line in lines)
    # of pictures that only one side has, none counts towards the difference
    (line,) = [x for x in lines if x.startswith("| all | scalekv | 10% | 2 | 2 | 1.000 (")]
    assert "| +0.500 (" in line


def test_the_kernel_distance_by_its_definition() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(4, 3)), rng.normal(1, 1, size=(5, 3))

    def k(x: np.ndarray, y: np.ndarray) -> float:
        return float((x @ y / 3 + 1) ** 3)

    within_a = np.mean([k(a[i], a[j]) for i in range(4) for j in range(4) if i != j])
    within_b = np.mean([k(b[i], b[j]) for i in range(5) for j in range(5) if i != j])
    across = np.mean([k(x, y) for x in a for y in b])
    assert kernel_distance(a, b) == pytest.approx(within_a + within_b - 2 * across)


def test_the_kernel_distance_is_unbiased() -> None:
    rng = np.random.default_rng(1)
    same = [kernel_distance(rng.normal(size=(30, 8)), rng.normal(size=(30, 8))) for _ in range(300)]
    assert abs(np.mean(same)) < 4 * np.std(same) / 300**0.5


def test_the_scorer_has_a_place_for_every_concept_it_is_asked_for() -> None:
    scorer = load_scorer()
    apple, car = scorer.captions(["red apple", "automobile"])
    assert float(apple @ apple) == pytest.approx(1, abs=1e-3)
    assert float(apple @ car) < 0.5
    assert load_heldout().concepts <= scorer.number.keys()


def drawings(concepts: int, noise: torch.Generator) -> torch.Tensor:
    """Features (2 N, 4, F) of N concepts in two styles and four views.

    Concepts differ in few directions; views in one and styles in another, both far along it.
    """
    one, other = torch.randn(2, FEATURES, generator=noise)
    axes = torch.randn(40, FEATURES, generator=noise)
    meaning = torch.randn(concepts, 40, generator=noise) @ axes
    styles = torch.randn(concepts, 2, 1, 1, generator=noise) * other * 60
    views = torch.randn(concepts, 2, 4, 1, generator=noise) * one * 60
    both: torch.Tensor = meaning[:, None, None] + styles + views + 1
    return both.flatten(0, 1)


def test_what_views_and_styles_of_one_concept_differ_by_counts_little() -> None:
    features = drawings(300, torch.Generator().manual_seed(0))
    names = [f"thing {i}" for i in range(300) for _ in range(2)]
    scorer = Scorer.fitted(features, names, ["flat", "noto"] * 300)
    seen, wanted = scorer.pictures(features), scorer.captions(names)
    assert torch.allclose(seen.norm(dim=-1), torch.ones(600, 4))
    assert found(seen[:, 0], wanted[::2]) == 1
    middle = features.mean((0, 1))
    assert found(features[:, 0] - middle, (features.mean(1) - middle)[::2]) < 0.9


def found(pictures: torch.Tensor, places: torch.Tensor) -> float:
    """Share of pictures (2 N, F), two of each concept, nearest to their own of N places (N, F)."""
    near = F.normalize(pictures, dim=-1) @ F.normalize(places, dim=-1).T
    return float((near.argmax(1) == torch.arange(len(pictures)) // 2).float().mean())


def test_a_scorer_is_read_as_it_was_written(tmp_path: Path) -> None:
    features = drawings(20, torch.Generator().manual_seed(1))
    names = [f"thing {i}" for i in range(20) for _ in range(2)]
    scorer = Scorer.fitted(features, names, ["flat", "noto"] * 20)
    scorer.save(tmp_path / "scorer.safetensors")
    again = load_scorer(tmp_path / "scorer.safetensors")
    assert again.number == scorer.number
    assert torch.allclose(again.pictures(features), scorer.pictures(features), atol=0.05)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--limit", "1"], "from 2 to 200"),
        (["--num-images", "0"], "at least 1"),
        (["--data", "nowhere"], "scripts.builtin.dataset"),
    ],
)
def test_refusals(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    (tmp_path / "images.npy").touch()
    assert main(["--data", str(tmp_path), "--out", str(tmp_path / "out"), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_large_picture_is_judged_at_the_size_of_the_drawings() -> None:
    small = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    assert as_judged(small) is small
    assert np.array_equal(as_judged(small.repeat(2, axis=0).repeat(2, axis=1)), small)
