"""Calibration of whole models: right against the definition, changing nothing, refused early."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from scalekv.configs.budget_files import budget_text, load_budget
from scalekv.configs.models import model_named
from scalekv.infinity_patch import Pipeline, Request, generate, load
from scalekv.infinity_patch.calibration.measure import Calibration, calibrate
from scalekv.infinity_patch.calibration.plan import (
    INDICES,
    CalibrationRequest,
    check_calibration,
    plan_of,
)
from scalekv.infinity_patch.files.hub import model_files
from scalekv.infinity_patch.generation.patch import caches_of, patched, self_attentions
from scalekv.kv.budgets.asked import resolve
from scalekv.kv.budgets.heat_order import read_order, write_order
from scalekv.kv.calibration.statistics import AttentionStatistics
from scalekv.kv.errors import UserError
from scalekv.kv.schedule import Schedule
from tests.infinity_patch.small import SHORT, SPEC, run, small_model

PROMPTS = ("a frog", "a blue book")
EMOJI = model_named("emoji")


def test_a_random_model_against_the_definition() -> None:
    """The whole matrix of every layer and head at once, in float64, from the queries and keys."""
    model = small_model()
    statistics = AttentionStatistics(SHORT, SPEC.depth, 16, halves=2, conditional=True)
    seen: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}

    def observe(
        layer: int, scale: int, schedule: Schedule, q: Tensor, k: Tensor, v: Tensor
    ) -> None:
        statistics(layer, scale, schedule, q, k, v)
        seen[layer, scale] = (q[0].double(), k[0].double())

    with patched(model, "full") as caches:
        caches.observer = observe
        run(model)
    means = statistics.means()
    assert len(seen) == SPEC.depth * len(SHORT)
    for (layer, scale), (q, k) in seen.items():
        weights = (q @ k.transpose(1, 2)).softmax(-1)
        before = SHORT.before(scale)
        largest = weights[..., :before].sort(descending=True).values[..., :16].sum(-1)
        own = weights[..., before:].sum(-1).mean(1)
        np.testing.assert_allclose(means.own[0, scale, layer], own, rtol=1e-4)
        np.testing.assert_allclose(means.top[0, scale, layer], largest.mean(1), rtol=1e-4)
        bits = torch.special.entr(weights).sum(-1).mean(1) / np.log(2)
        np.testing.assert_allclose(means.entropy[scale, layer], bits, rtol=1e-4, atol=1e-5)
        parts = weights.split(SHORT.tokens[: scale + 1], dim=-1)
        mass = torch.stack([part.sum(-1).mean(1) for part in parts])
        np.testing.assert_allclose(means.mass[scale, : scale + 1, layer], mass, rtol=1e-4)


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return load("emoji", device="cpu")


@pytest.fixture(scope="module")
def measured(pipeline: Pipeline) -> Calibration:
    asked = CalibrationRequest(Request(PROMPTS, seed=3), drafters=2, index="share")
    return calibrate(pipeline, asked)


def test_pictures_are_those_of_the_full_cache_and_the_model_is_left_alone(
    pipeline: Pipeline,
) -> None:
    request = Request(PROMPTS[:1], seed=3)
    before = [module.forward for module in self_attentions(pipeline.model)]
    seen: list[Any] = []
    calibrate(pipeline, CalibrationRequest(request), on_picture=seen.append)
    plain = next(generate(pipeline, replace(request, policy="full")))
    assert np.array_equal(np.asarray(seen[0].image), np.asarray(plain.image))
    assert [module.forward for module in self_attentions(pipeline.model)] == before
    assert caches_of(pipeline.model) is None


def test_the_budget_says_where_it_comes_from(measured: Calibration, tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(budget_text(measured.spec("own")), encoding="utf-8")
    spec = load_budget(path, "emoji")
    assert spec == replace(measured.spec("own"), name=str(path))
    budget = resolve(spec, measured.plan.schedule, 8)
    assert {s: budget.drafters[s] for s in measured.plan.scales} == measured.drafters
    weights = model_files(EMOJI).transformer
    for fact in (
        hashlib.sha256(weights.read_bytes()).hexdigest(),
        hashlib.sha256(b"a frog\na blue book\n").hexdigest(),
        "2 prompts",
        "1x1 2x2 4x4 6x6 8x8 12x12 16x16",
        "the conditional half; index share, K' 16, N_d 6 pairs",
        "seeds from 3",
        "scalekv 0.",
    ):
        assert fact in spec.provenance
    assert measured.plan.scales == (4, 5, 6)
    assert sum(map(len, measured.drafters.values())) == 6


def test_the_numbers_hang_together(measured: Calibration) -> None:
    numbers = json.loads(json.dumps(measured.to_dict(), allow_nan=False))
    mass = np.array(numbers["s_cas"])
    assert mass.shape == (7, 7, 8, 4)
    np.testing.assert_allclose(mass.sum(1), 1, rtol=1e-4)
    own, share = np.array(numbers["own_mass"]), np.array(numbers["top_share"])
    heads = np.array(numbers["index_by_head"][1:], dtype=float)
    np.testing.assert_allclose(heads, (own * share)[1:], rtol=1e-4)
    np.testing.assert_allclose(
        np.array(numbers["index"][1:], dtype=float), heads.mean(-1), rtol=1e-4
    )
    assert numbers["index"][0] == [None] * 8
    assert np.shape(numbers["mass_of_later_scales"]) == (6, 8, 4)
    assert numbers["pictures"] == 2
    assert 0 <= numbers["halves_agree"] <= 1
    assert 0 < numbers["sparsity"]["earlier"] <= 1
    bits = numbers["entropy"]
    assert bits["bits_by_scale"][0] == 0
    for value, most in zip(bits["bits_by_scale"], bits["most_by_scale"], strict=True):
        assert 0 <= value <= most
    assert numbers["provenance"]["settings"]["cfg"] == [3.0] * 7
    assert "prompt" not in numbers["provenance"]["settings"]


def test_the_order_ranks_heads_by_what_later_scales_look_at(measured: Calibration) -> None:
    order = read_order(write_order(measured.order()))
    assert (order.layers, order.heads, len(order.pairs)) == (8, 4, 3)
    for source, pairs in enumerate(order.pairs, start=3):
        mass = [measured.later_mass[source, layer, head] for layer, head in pairs]
        assert mass == sorted(mass)


def test_the_two_indices_and_halves_differ(pipeline: Pipeline) -> None:
    request = Request(PROMPTS[:1])
    result = {
        (index, both): calibrate(
            pipeline, CalibrationRequest(request, index=index, both_halves=both)
        )
        for index in INDICES
        for both in (False, True)
    }
    assert len({str(one.layer_index.tolist()) for one in result.values()}) == 4
    assert "both guidance halves" in result["paper", True].provenance.line()
    assert result["paper", False].halves_agree is None


def test_without_guidance_there_is_one_half(pipeline: Pipeline) -> None:
    found = calibrate(pipeline, CalibrationRequest(Request(PROMPTS[:1], cfg=1)))
    assert "no guidance" in found.provenance.line()
    assert found.means.mass[6].sum() == pytest.approx(8 * 4, rel=1e-4)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"budget": "100%"}, ["--budget", "drops nothing", "265"]),
        ({"budget": "265"}, ["drops nothing"]),
        ({"budget": "full"}, ["cannot calibrate for", "10%"]),
        ({"budget": "paper-10"}, ["cannot calibrate for"]),
        ({"budget": "ten%"}, ["cannot read the budget"]),
        ({"drafters": 0}, ["--drafters", "0 drafters per scale"]),
        ({"drafters": 8}, ["--drafters", "8 layers"]),
        ({"drafters": float("nan")}, ["--drafters"]),
        ({"drafters": 0.1}, ["--drafters"]),
        ({"top": 0}, ["--top"]),
        ({"index": "papr"}, ["--index", "did you mean paper"]),
        ({"pictures": Request(())}, ["no prompt"]),
        ({"pictures": Request(PROMPTS, ratio="2:1")}, ["--ratio"]),
    ],
)
def test_refusals(changes: dict[str, Any], words: list[str]) -> None:
    request = replace(CalibrationRequest(Request(PROMPTS)), **changes)
    with pytest.raises(UserError) as refused:
        check_calibration(request, EMOJI)
    for word in words:
        assert word in str(refused.value)


def test_plans_by_hand() -> None:
    """At 1M, 1:1, the paper's 650 tokens drop from scale 9 on, as in its released budgets."""
    plan = plan_of(CalibrationRequest(Request(PROMPTS), "650"), model_named("infinity-2b"))
    assert (plan.scales, plan.pairs, plan.asked.mean) == ((8, 9, 10, 11, 12), 10, 650)
    plan = plan_of(CalibrationRequest(Request(PROMPTS), "20%", drafters=1.8), EMOJI)
    assert (plan.scales, plan.pairs, plan.asked.label) == ((4, 5, 6), 5, "20%")


def test_weights_that_cannot_be_hashed_are_refused_before_any_picture(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(path: Path) -> str:
        raise UserError(f"{path.name} cannot be read")

    monkeypatch.setattr("scalekv.infinity_patch.calibration.measure.weights_sha256", refuses)
    drawn: list[object] = []
    with pytest.raises(UserError, match="cannot be read"):
        calibrate(pipeline, CalibrationRequest(Request(PROMPTS)), on_progress=drawn.append)
    assert not drawn
