"""What is remade with new weights: which commands, and what becomes of pages."""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path

import pytest

from scalekv.configs.models import model_named
from scalekv.infinity_patch.files.hub import BUILT_IN
from scripts.builtin import pages
from scripts.builtin.gpu.start import next_preset
from scripts.builtin.remake import (
    BUDGETS,
    CARD,
    FIDELITY,
    ROOT,
    SELF,
    Chapter,
    facts,
    ranking,
    run,
    steps,
)


def test_a_part_of_a_page_is_replaced_and_nothing_else() -> None:
    page = f"before\n{pages.begin('x')}\nold\n{pages.END}\nafter {pages.begin('y')} {pages.END}"
    new = pages.replaced(page, "x", "new\n")
    assert new == f"before\n{pages.begin('x')}\n\nnew\n\n{pages.END}\nafter " + (
        f"{pages.begin('y')} {pages.END}"
    )
    assert pages.replaced(new, "x", "new") == new
    for wrong in ("z", "x"):
        with pytest.raises(ValueError, match="not one part"):
            pages.replaced(page.replace(pages.END, "") if wrong == "x" else page, wrong, "")


def test_every_page_has_the_parts_that_are_written() -> None:
    for path, names in {
        CARD: ("sizes", "generation", "reconstruction", "fringes"),
        FIDELITY: ("fidelity", "ranking"),
    }.items():
        page = (ROOT / path).read_text(encoding="utf-8")
        for name in names:
            pages.replaced(page, f"{SELF}: {name}", "")


def test_the_card_says_the_sizes_of_what_is_shipped() -> None:
    page = (ROOT / CARD).read_text(encoding="utf-8")
    shipped = sum(p.stat().st_size for p in (BUILT_IN / "emoji").rglob("*") if p.is_file())
    text = facts(model_named("emoji"), shipped)
    assert pages.replaced(page, f"{SELF}: sizes", text) == page
    assert "2,521, of which 1,497 are history: 10 % is 149" in facts(next_preset(), 1)


def test_every_policy_and_budget_is_measured_at_the_models_size(tmp_path: Path) -> None:
    commands = {step.name: list(step.command) for step in steps(next_preset(), tmp_path)}
    assert commands["drawings"][-1] == "256"
    asked = dict(pairwise(commands["fidelity"]))
    assert asked["--budget"].split(",") == list(BUDGETS)
    assert {"50%", "20%", "10%", "5%", "2%"} == set(BUDGETS)
    assert {"scalekv", "heatkv", "random"} <= set(asked["--policy"].split(","))
    assert str(tmp_path / "drawings") in commands["generation"]


def test_the_ranking_is_of_medians_and_says_whether_it_is_the_papers() -> None:
    def row(policy: str, psnr: float | None, kv_dtype: str = "auto") -> dict[str, object]:
        return {"policy": policy, "budget": "10%", "kv_dtype": kv_dtype, "psnr": psnr}

    papers = ["scalekv", "pyramidkv", "snapkv", "streaming-llm", "sliding-window"]
    rows = [row(policy, 25.0 - i) for i, policy in enumerate(papers)]
    assert "it is the same here" in ranking(rows, "10%")
    rows += [row("scalekv", 1.0), row("scalekv", 2.0), row("snapkv", 99.0, "int8")]
    text = ranking(rows, "10%")
    assert "best first: pyramidkv 24.0, snapkv 23.0" in text
    assert "it is not the same here" in text


def test_a_step_runs_once_and_a_failed_one_again(tmp_path: Path) -> None:
    called = []
    command = [sys.executable, "-c", "print('made')"]
    good = Chapter("good", command, lambda runs: called.append((runs / "good.out").read_text()))
    run(good, tmp_path)
    run(good, tmp_path)
    assert called == ["made\n"]
    bad = Chapter("bad", [sys.executable, "-c", "raise SystemExit(3)"])
    for _ in range(2):
        with pytest.raises(SystemExit, match="bad ended with 3"):
            run(bad, tmp_path)
