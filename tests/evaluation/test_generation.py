"""The generation script: whom it asks for what, and that a judge is judged fairly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from scripts.builtin import captions
from scripts.builtin.captions import Row
from scripts.builtin.scorer import FEATURES, LONGEST, Scorer, ids_of, load_scorer
from scripts.eval_generation import CHOICES, GROUPS, choices_for, hits, main, prompts_of, table
from scripts.eval_measures import kernel_distance
from scripts.eval_pictures import FULL, Variant
from scripts.eval_rows import Rows

KEY = ("id", "policy", "budget")


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
    assert choices[0] == captions.prompt(rows[7])
    assert all(text.endswith("shaded style") for text in choices)
    assert choices_for(rows[7], rows, 3) == choices != choices_for(rows[7], rows, 4)


def test_differences_are_paired(tmp_path: Path) -> None:
    found = Rows.open(tmp_path / "rows.jsonl", {}, KEY)
    less = Variant("scalekv", "10%")
    for i in range(10):
        for variant, wrong in ((FULL, i < 4), (less, i < 5)):
            found.add(
                {
                    "id": str(i),
                    "policy": variant.policy,
                    "budget": variant.budget,
                    "group": "trained",
                    "rank": 3 if wrong else 0,
                }
            )
    assert sum(hits(found, "trained", FULL).values()) == 6
    lines = table(found, [FULL, less], {FULL: 0.5}).splitlines()
    assert any(line.startswith("| trained on | full | full | 10 | 0.600 (") for line in lines)
    (line,) = [x for x in lines if x.startswith("| trained on | scalekv | 10% | 10 | 0.500 (")]
    assert "| -0.100 (-0.300 to +0.000) |" in line


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


def test_the_scorer_reads_words_and_not_their_order() -> None:
    scorer = load_scorer()
    one, other, third = scorer.captions(ids_of(["a cat and a dog", "a dog and a cat", "a car"]))
    assert torch.allclose(one, other, atol=1e-5)
    assert float(one @ third) < 0.9
    assert ids_of(["word " * 100]).shape == (1, LONGEST)


def test_what_views_of_one_drawing_differ_by_counts_little() -> None:
    noise = torch.Generator().manual_seed(0)
    drawings = torch.randn(300, 1, FEATURES, generator=noise)
    blur = torch.randn(FEATURES, generator=noise)  # one direction, far along which views lie
    views = drawings + 9 * torch.randn(300, 4, 1, generator=noise) * blur + 1
    scorer = Scorer(10)
    scorer.whiten(views)
    white = (views.mean(1) - scorer.middle) @ scorer.axes
    assert torch.allclose(white.std(0), torch.ones(white.shape[1]), atol=0.01)
    seen = scorer.pictures(views)
    assert torch.allclose(seen.norm(dim=-1), torch.ones(300, 4))
    assert float((seen[:, 0] * seen[:, 1]).sum(-1).mean()) > 0.9
    plain = torch.nn.functional.normalize(views, dim=-1)
    assert float((plain[:, 0] * plain[:, 1]).sum(-1).mean()) < 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--limit", "1"], "from 2 to 100"), (["--data", "nowhere"], "scripts.builtin.dataset")],
)
def test_refusals(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    (tmp_path / "images.npy").touch()
    assert main(["--data", str(tmp_path), "--out", str(tmp_path / "out"), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
