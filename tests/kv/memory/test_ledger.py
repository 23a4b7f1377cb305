"""Bytes by arithmetic: the published figures, and the ledger's own sums."""

from __future__ import annotations

import json

import pytest

from scalekv.configs.budget_files import load_budget
from scalekv.kv.budgets.asked import capacities_for, parse_budget, resolve
from scalekv.kv.budgets.budget import Budget
from scalekv.kv.budgets.moments import within
from scalekv.kv.memory.ledger import CacheLedger, LayerRecord
from scalekv.kv.memory.predicted import CacheShape, cache_bytes, full_cache_bytes, peak_held_tokens
from tests.kv.stand_in import SEVEN, THIRTEEN

MIB = 2**20
# (layers, heads, head_dim) of the published models.
MODELS = {"2B": (32, 16, 128), "8B": (40, 28, 128)}


@pytest.mark.parametrize(
    ("model", "tokens", "mib"),
    [
        ("2B", 6425, 38550),
        ("2B", 1300, 7800),
        ("2B", 650, 3900),
        ("2B", 265, 1590),
        ("8B", 6425, 84328),
        ("8B", 1300, 17062),
        ("8B", 650, 8531),
        ("8B", 265, 3478),
    ],
)
def test_the_papers_memory_column(model: str, tokens: int, mib: int) -> None:
    """Batch 8, guidance, k in float32 and v in bfloat16: arXiv 2505.19602, its memory table."""
    layers, heads, head_dim = MODELS[model]
    shape = CacheShape(layers, 16, heads, head_dim, k_bytes=4, v_bytes=2)
    assert int(shape.bytes_of(tokens) / MIB) == mib


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", ["paper-4", "paper-10", "paper-20"])
def test_the_papers_bytes_buy_the_papers_means(model: str, name: str) -> None:
    """The named budgets hold what the paper's memory column says, and that much buys them."""
    layers, heads, head_dim = MODELS[model]
    shape = CacheShape(layers, 16, heads, head_dim, k_bytes=4, v_bytes=2)
    named = resolve(load_budget(name, f"infinity-{model.lower()}"), THIRTEEN, layers)
    use = within(named)
    peak = peak_held_tokens(THIRTEEN, layers, use)
    assert peak == named.mean * layers
    held = peak * shape.bytes_per_token
    column = {265: (1590, 3478), 650: (3900, 8531), 1300: (7800, 17062)}[named.mean]
    assert int(held / MIB) == column[model == "8B"]
    bought = resolve(parse_budget(f"{held}B"), THIRTEEN, layers, bytes_of=shape.bytes_of)
    assert bought.mean == named.mean
    assert (
        resolve(parse_budget(f"{held - 1}B"), THIRTEEN, layers, bytes_of=shape.bytes_of).mean
        == named.mean - 1
    )


@pytest.mark.parametrize(("model", "gib"), [("2B", 3.14), ("8B", 6.86)])
def test_a_full_history_in_bfloat16(model: str, gib: float) -> None:
    layers, heads, head_dim = MODELS[model]
    history = full_cache_bytes(THIRTEEN, layers, 2, heads, head_dim, 2)
    assert history / 2**30 == pytest.approx(gib, abs=0.005)
    assert history == cache_bytes(layers, 2, heads, head_dim, 6425, 2)
    everything = full_cache_bytes(THIRTEEN, layers, 2, heads, head_dim, 2, include_last=True)
    assert everything * 6425 == history * 10521


def test_the_peak_lies_between_two_scales_when_drafters_come_first() -> None:
    budget = capacities_for(THIRTEEN, 32, {1: [0, 23], 13: [0]}, 650)
    steady = 650 * 32
    # Layer 0 has grown to its last capacity while layer 23 is still a drafter.
    expected = steady + (6385 - 4100) + (465 - 420) * 22
    assert peak_held_tokens(THIRTEEN, 32, budget) == expected
    assert peak_held_tokens(THIRTEEN, 32, None) == 6425 * 32


def filled_ledger(scales: int) -> CacheLedger:
    budget = capacities_for(SEVEN, 3, [0], 26, label="10%", origin="a test")
    ledger = CacheLedger(SEVEN, CacheShape(3, 2, 4, 8, 2, 2), "scalekv", budget)
    for scale in range(scales):
        for layer in range(3):
            tokens = budget.capacity(scale, layer)
            held = tokens * ledger.shape.bytes_per_token
            ledger.record(scale, layer, LayerRecord(tokens, tokens, tokens, tokens, held, 0))
    ledger.record_held(26 * 3 * ledger.shape.bytes_per_token, 100)
    ledger.record_held(5, 7)
    ledger.record_transient(2, 11)
    return ledger


def test_the_record_is_json_and_adds_up() -> None:
    ledger = filled_ledger(7)
    facts = json.loads(json.dumps(ledger.to_dict()))
    assert facts["held_peak_bytes"] == 26 * 3 * 256
    assert (facts["index_peak_bytes"], facts["transient_peak_bytes"]) == (100, 11)
    assert facts["full_bytes"] == full_cache_bytes(SEVEN, 3, 2, 4, 8, 2)
    assert facts["full_bytes_all"] == full_cache_bytes(SEVEN, 3, 2, 4, 8, 2, include_last=True)
    assert facts["ratio_history"] == pytest.approx(26 / 265)
    assert facts["ratio_all"] == pytest.approx(26 / 521)
    assert facts["budget"]["label"] == "10%"
    assert facts["budget"]["origin"] == "a test"
    assert [row["scale"] for row in facts["scales"]] == [1, 2, 3, 4, 5, 6, 7]
    last = facts["scales"][-1]
    assert (last["height"], last["width"], last["tokens"]) == (16, 16, 256)
    assert last["history_tokens"] == 265
    assert last["held_bytes"] == sum(last["layers"]["held_bytes"]) == 26 * 3 * 256
    assert last["layers"]["capacity"] == last["layers"]["held_max"]


def test_an_interrupted_picture_says_what_it_has() -> None:
    ledger = filled_ledger(4)
    assert len(ledger.to_dict()["scales"]) == 4
    assert ledger.held(3, 2) is not None
    assert ledger.held(4, 0) is None


def test_no_history_gives_no_division_by_zero() -> None:
    schedule = type(SEVEN).parse("1x1")
    ledger = CacheLedger(schedule, CacheShape(1, 1, 1, 1, 4, 4), "full", None)
    assert ledger.ratio_history == 0.0
    assert ledger.to_dict()["budget"] is None


def test_heads_are_counted_one_by_one() -> None:
    schedule = type(SEVEN).parse("1x1 2x2 3x3 4x4")
    heads = (((0, 0),), ((1, 0),), ((5, 4),), ((0, 9),))
    most = ((0,), (1,), (5,), (9,))
    budget = Budget(schedule, 1, most, 5, head_capacities=heads)
    assert peak_held_tokens(schedule, 1, budget, heads=2) == 9
    alike = capacities_for(schedule, 3, [0], 5)
    assert peak_held_tokens(schedule, 3, alike, heads=4) == 4 * peak_held_tokens(schedule, 3, alike)
    assert peak_held_tokens(schedule, 3, None, heads=4) == 14 * 12
