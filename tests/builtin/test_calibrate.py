"""What ships as calibrated is of the weights that ship, and was judged on prompts of its own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from scalekv.cli.batch.file import prompts_alone
from scalekv.configs.budget_files import FOLDER, load_budget
from scalekv.configs.models import calibration_prompts, model_named
from scalekv.configs.sparsity import measured_sparsity
from scalekv.infinity_patch.files.hashes import prompts_sha256, weights_sha256
from scalekv.infinity_patch.files.hub import model_files
from scalekv.kv.budgets.heat_order import read_order
from scalekv.kv.calibration.profile import read_profile
from scripts.builtin.calibrate import CHOOSING, COMPARING, MEASURED, difference, said, table
from scripts.builtin.captions import load_heldout
from scripts.builtin.pages import END, begin

ROOT = Path(__file__).parents[2]
AGAIN = "run python -m scripts.builtin.calibrate"


@pytest.fixture(scope="module")
def weights() -> str:
    return weights_sha256(model_files(model_named("emoji")).transformer)


@pytest.mark.parametrize("name", ["default", "calibrated"])
def test_budgets_are_of_the_shipped_weights(name: str, weights: str) -> None:
    assert weights in load_budget(name, "emoji").provenance, AGAIN


def test_the_calibration_is_of_the_shipped_prompts() -> None:
    prompts = prompts_alone(calibration_prompts("emoji"))
    assert prompts_sha256(prompts) in load_budget("calibrated", "emoji").provenance, AGAIN


def test_the_page_is_of_the_shipped_weights(weights: str) -> None:
    page = (ROOT / "docs/calibration.md").read_text(encoding="utf-8")
    measured = page.partition(begin(MEASURED))[2].partition(END)[0]
    assert weights in measured, AGAIN
    tables = [block for block in measured.split("\n\n") if block.startswith("|")]
    assert len(tables) == 4
    for one in tables:
        assert len({line.count("|") for line in one.splitlines()}) == 1, one


def test_the_sparsity_is_of_the_shipped_weights_and_what_the_page_says(weights: str) -> None:
    found = measured_sparsity("emoji")
    assert found is not None
    assert found.weights == weights, AGAIN
    page = (ROOT / "docs/calibration.md").read_text(encoding="utf-8")
    assert f"carried by {found.share:.1%} of all (layer, head, source scale)" in page, AGAIN


def test_the_order_ranks_every_head_of_the_model() -> None:
    order = read_order((FOLDER / "emoji/heat-order.json").read_text(encoding="utf-8"))
    spec = model_named("emoji").transformer
    assert (order.layers, order.heads, len(order.pairs)) == (spec.depth, spec.heads, 3)
    assert json.loads((FOLDER / "emoji/heat-order.json").read_text()), "JSON as published"


def test_the_profile_is_of_the_shipped_weights(weights: str) -> None:
    text = (FOLDER / "emoji/attention.json").read_text(encoding="utf-8")
    profile, spec = read_profile(text), model_named("emoji").transformer
    assert (profile.layers, profile.heads, profile.scales) == (spec.depth, spec.heads, 7)
    assert json.loads(text)["provenance"]["weights"] == weights, AGAIN
    assert 0 < sum(map(len, profile.structural)) < spec.depth * spec.heads


def test_sets_are_judged_on_prompts_of_their_own() -> None:
    measured = prompts_alone(calibration_prompts("emoji"))
    lists = [set(measured), set(CHOOSING), set(COMPARING)]
    assert sum(map(len, lists)) == len(set.union(*lists))
    held_out = load_heldout()
    concepts = held_out.concepts | {concept for concept, _ in held_out.styles}
    for prompt in COMPARING:
        name = prompt.split(",")[0].removeprefix("a ").removeprefix("an ")
        assert name not in concepts


def test_words_and_tables() -> None:
    assert said(()) == "none"
    assert said((0, 1)) == "0 1"
    assert said({5: (3, 4), 7: ()}) == "from scale 5: 3 4; from scale 7: none"
    assert table(["a", "b"], [[1, 2]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"
    ours, theirs = np.array([[3.0, 5.0], [5.0, 3.0]]), np.array([[2.0, 2.0], [2.0, 2.0]])
    assert difference(ours, theirs) == "+2.00 ± 0.00 dB"
