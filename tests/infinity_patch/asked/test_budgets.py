"""Budgets of every model at every size there is, and what people may give for one."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest

from scalekv.configs.budget_files import default_budget, load_budget
from scalekv.configs.models import list_models, model_named
from scalekv.infinity_patch.asked.budgets import read_budget
from scalekv.infinity_patch.schedules import PIXEL_CLASSES, ratios, schedule_for
from scalekv.kv.budgets.asked import BudgetSpec, capacities_for, parse_budget, resolve
from scalekv.kv.budgets.budget import Budget
from scalekv.kv.budgets.moments import within
from scalekv.kv.budgets.shapes import pyramid
from scalekv.kv.budgets.shares import Linear
from scalekv.kv.errors import UserError
from scalekv.kv.memory.predicted import peak_held_tokens

SQUARE = schedule_for("1:1", "1M")
DEPTHS = sorted({model_named(name).transformer.depth for name in list_models()})
TALL = [ratio for ratio in ratios() if int(ratio.split(":")[0]) <= int(ratio.split(":")[1])]


def check_exact(budget: Budget) -> None:
    """Every scale averages the mean or holds everything, and what is planned can be held."""
    tokens = budget.schedule.tokens
    held = [0] * budget.layers
    for scale, row in enumerate(budget.capacities):
        history = budget.schedule.before(scale)
        assert sum(row) == budget.layers * min(history, budget.mean)
        if scale:
            grown = [has + tokens[scale - 1] for has in held]
            assert all(most <= has for most, has in zip(row, grown, strict=True))
        held = list(row)


@pytest.mark.parametrize("pixels", PIXEL_CLASSES)
@pytest.mark.parametrize("ratio", TALL)
def test_means_are_exact_at_every_size_depth_and_share(ratio: str, pixels: str) -> None:
    """Wide pictures have the maps of tall ones on their side, so as many tokens."""
    schedule = schedule_for(ratio, pixels)
    width, height = ratio.split(":")
    assert schedule_for(f"{height}:{width}", pixels).tokens == schedule.tokens
    for depth in DEPTHS:
        for percent in (4, 10, 20, 50) if depth in (8, 32, 40) else (10,):
            budget = resolve(
                parse_budget(f"{percent}%"), schedule, depth, {1: [0, depth - 1], 6: [0]}
            )
            assert budget.mean == max(Fraction(percent, 100) * schedule.history // 1, 1)
            check_exact(budget)
            check_exact(pyramid(budget))
            assert peak_held_tokens(schedule, depth, within(budget)) == budget.mean * depth


@pytest.mark.parametrize("name", ["infinity-2b", "infinity-8b"])
@pytest.mark.parametrize("pixels", PIXEL_CLASSES)
def test_named_budgets_serve_every_size(name: str, pixels: str) -> None:
    layers = model_named(name).transformer.depth
    for budget_name in ("paper-4", "paper-10", "paper-20"):
        for ratio in TALL:
            budget = resolve(load_budget(budget_name, name), schedule_for(ratio, pixels), layers)
            check_exact(budget)
            assert budget.evicts == (budget.schedule.history > budget.mean)


@pytest.mark.parametrize("name", ["infinity-2b", "infinity-8b"])
def test_every_mean_there_is_at_full_size(name: str) -> None:
    known = default_budget(name)
    assert known is not None
    for mean in (*range(1, 60), *range(190, 210), 265, 642, 650, 1300, 3212, 6424, 6425, 9000):
        budget = capacities_for(SQUARE, known.layers, known.drafters, mean)
        check_exact(budget)
        assert peak_held_tokens(SQUARE, known.layers, within(budget)) <= mean * known.layers


@pytest.mark.parametrize(
    ("mean", "least"), [(16, 16), (17, 16), (40, 20), (199, 99), (200, 200), (201, 200), (650, 200)]
)
def test_the_floor_for_layers_that_are_no_drafters(mean: int, least: int) -> None:
    """200 tokens as released; below a mean of 200 the window or half the mean; never above it."""
    budget = capacities_for(SQUARE, 8, [0], mean, window=16)
    lowest = min(min(row) for row in budget.capacities[1:] if sum(row) == 8 * mean)
    assert least <= lowest <= mean
    # As low as the drafter can make use of, once maps are large.
    assert min(budget.capacities[-1]) == least or max(budget.capacities[-1]) == 6425


def test_drafters_that_vary_by_scale_take_no_more_than_they_have() -> None:
    """As calibration finds them: what single layers cannot hold goes to others, to the token."""
    rows = {1: [0, 23], 5: [0, 3, 23], 9: [3, 7], 10: [0, 23], 11: [1], 12: [0, 2, 30], 13: [23]}
    for mean in (100, 265, 642, 1300):
        budget = capacities_for(SQUARE, 32, rows, mean)
        check_exact(budget)
        use = within(budget)
        for scale in range(13):
            for layer in range(32):
                # Capacity is as planned, use is what may be held: never more, and reported apart.
                assert use.held_tokens(scale, layer) <= budget.held_tokens(scale, layer)
                assert budget.held_tokens(scale, layer) == budget.capacity(scale, layer)
        assert peak_held_tokens(SQUARE, 32, use) <= mean * 32


@pytest.mark.parametrize("delta", [0, 35, 70])
def test_the_papers_linear_rule(delta: int) -> None:
    """arXiv 2505.19602: 650 tokens on 2B with 600 to begin with, delta from 0 to 70."""
    spec = BudgetSpec(
        name="linear",
        model="infinity-2b",
        layers=32,
        drafters=[0, 23],
        mean=650,
        linear=Linear(600, delta),
        provenance="the paper's figures",
    )
    budget = resolve(spec, SQUARE, 32)
    check_exact(budget)
    others = [layer for layer in range(32) if layer not in (0, 23)]
    had = 521  # tokens a drafter holds before the first scale that drops any
    for k, scale in enumerate(range(8, 13)):
        share = 600 - delta * k
        most = had + SQUARE.tokens[scale - 1]
        wanted = (650 * 32 - 30 * share) // 2
        row = budget.capacities[scale]
        assert {row[0], row[23]} == {min(wanted, most)}
        if wanted <= most:
            assert {row[layer] for layer in others} == {share}
        else:  # the drafters cannot use it: as even as the rest divides
            rest = [row[layer] for layer in others]
            assert max(rest) - min(rest) <= 1
            assert min(rest) > share
        had = row[0]
    assert f"600 - {delta} k" in budget.origin


def test_a_linear_rule_without_drafters_at_a_scale_is_uniform_there() -> None:
    budget = capacities_for(SQUARE, 8, {1: [0], 13: []}, 650, linear=Linear(600, 10))
    check_exact(budget)
    assert budget.capacities[-1][1:] == (650,) * 7
    assert (
        capacities_for(SQUARE, 4, [0, 1, 2, 3], 650, linear=Linear(600, 10)).capacities[-1]
        == (650,) * 4
    )
    assert capacities_for(SQUARE, 4, [0], 6425, linear=Linear(1, 0)).capacities[-1] == (6425,) * 4


@pytest.mark.parametrize(
    ("start", "delta", "says", "fix"),
    [
        (651, 0, "would start with 651", "refiner_start: 650"),
        (15, 0, "would start with 15", "refiner_start: 16"),
        (600, 147, "would keep 12 tokens at scale 13", "at most 146"),
    ],
)
def test_a_linear_rule_that_cannot_be_kept_is_refused(
    start: int, delta: int, says: str, fix: str
) -> None:
    with pytest.raises(UserError) as caught:
        capacities_for(SQUARE, 32, [0], 650, linear=Linear(start, delta), label="mine")
    assert says in caught.value.what
    assert fix in caught.value.fix
    assert caught.value.where == "budget mine"
    check_exact(capacities_for(SQUARE, 32, [0], 650, linear=Linear(600, 146)))


@pytest.mark.parametrize(("start", "delta"), [(0, 0), (600, -1), (600, 1.5), (True, 0)])
def test_a_linear_rule_is_of_whole_numbers(start: int, delta: int) -> None:
    with pytest.raises(UserError, match=r"(refiner_start|delta) is"):
        Linear(start, delta)


def test_percentages_take_the_models_drafters_and_say_where_from() -> None:
    result = read_budget("10%", 32, "infinity-2b").on(SQUARE)
    assert result.drafters[0] == (0, 23)
    assert "as released" in result.origin
    uniform = read_budget("10%", 12, "infinity-125m").on(SQUARE)
    assert "uniform" in uniform.origin
    own = read_budget(642, 32, "infinity-2b", [5]).on(SQUARE)
    assert own.origin == "drafters as given"


def test_bytes_wait_for_what_a_token_takes() -> None:
    read = [read_budget(b, 32, "infinity-2b") for b in (650, "10%", "full", "paper-10")]
    assert not any(one.in_bytes for one in read)
    result = read_budget("1MB", 32, "infinity-2b")
    assert result.in_bytes
    budget = result.on(SQUARE, lambda tokens: 2000 * tokens)
    assert (budget.mean, budget.label, budget.drafters[0]) == (500, "1MB", (0, 23))


def test_an_object_for_another_schedule_or_depth_is_refused() -> None:
    budget = capacities_for(SQUARE, 32, [0], 650, label="mine")
    assert read_budget(budget, 32, None).on(SQUARE) is budget
    with pytest.raises(UserError, match="was made for 32 layers"):
        read_budget(budget, 40, None).on(SQUARE)
    with pytest.raises(UserError, match="was made for 32 layers"):
        read_budget(budget, 32, None).on(schedule_for("1:1", "0.25M"))


@pytest.mark.parametrize("asked", ["infinity-8b/paper-10", "file"])
def test_one_made_for_another_model_is_refused(asked: str, tmp_path: Path) -> None:
    if asked == "file":
        path = tmp_path / "theirs.yaml"
        path.write_text("model: infinity-8b\nlayers: 32\nmean: 650\nprovenance: by hand\n")
        asked = str(path)
    with pytest.raises(UserError, match="made for infinity-8b, not for infinity-2b") as caught:
        read_budget(asked, 32, "infinity-2b")
    assert "paper-10" in caught.value.fix
    with pytest.raises(UserError, match="made for infinity-8b, not for infinity-2b"):
        read_budget(load_budget(asked), 32, "infinity-2b")


def test_an_unknown_model_takes_a_file_of_its_depth_only(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("model: mine\nlayers: 6\nmean: 650\nprovenance: by hand\n")
    assert read_budget(str(path), 6, None).on(SQUARE).mean == 650
    with pytest.raises(UserError, match="made for 6 layers, the model has 7"):
        read_budget(str(path), 7, None).on(SQUARE)
