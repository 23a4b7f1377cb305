"""Finer scales that are not drawn: the scales before them are those of the whole picture, the cache
is as planned, and the picture is as large."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from scalekv.configs.models import model_named
from scalekv.infinity_patch import generate, load
from scalekv.infinity_patch.asked.request import Request
from scalekv.infinity_patch.asked.settled import settle
from scalekv.infinity_patch.files.hub import BUILT_IN
from scalekv.infinity_patch.generation.forced import force_bits
from scalekv.infinity_patch.generation.pipeline import settled_on
from scalekv.infinity_patch.loading.loader import Pipeline
from scalekv.infinity_patch.planning.planner import Planner
from scalekv.kv.budgets.asked import parse_budget, resolve
from scalekv.kv.errors import UserError
from tests.kv.stand_in import SEVEN

needs_weights = pytest.mark.skipif(
    not (BUILT_IN / "emoji" / "transformer.safetensors").exists(),
    reason="the built-in model's weights are not here",
)


def asked(**settings: Any) -> Request:
    return Request(("a red apple",), **{"policy": "full", **settings})


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return load("emoji", device="cpu", dtype="fp32")


@needs_weights
def test_the_scales_that_are_drawn_are_the_whole_pictures(pipeline: Pipeline) -> None:
    """The sum of codes differs by what the finer scales add, and by nothing else."""
    whole, part = (
        force_bits(pipeline, settled_on(pipeline, asked(stop_after=stop)), "a red apple", 3)
        for stop in (None, 5)
    )
    assert len(whole.bits) == 7
    for ours, theirs in zip(part.bits, whole.bits[:5], strict=True):
        assert torch.equal(ours, theirs)
    assert part.total.shape == whole.total.shape


@needs_weights
@pytest.mark.parametrize(
    ("policy", "stop"), [("full", 6), ("hack-plus", 6), ("coded", 6), ("scalekv", 1)]
)
def test_the_cache_is_as_planned_and_measured_against_the_whole(
    pipeline: Pipeline, policy: str, stop: int
) -> None:
    request = asked(policy=policy, budget="20%", stop_after=stop)
    planned = Planner(settle(request, pipeline.preset, "cpu", "fp32")).footprint().cache
    picture = next(generate(pipeline, request))
    held = picture.cache
    assert planned.held_peak_bytes == held["held_peak_bytes"]
    assert planned.index_peak_bytes == held["index_peak_bytes"]
    assert planned.transient_peak_bytes == held["transient_peak_bytes"]
    assert len(held["scales"]) == held["stop_after"] == picture.settings["stop_after"] == stop
    assert held["history_tokens"] == 265
    assert held["ratio_history"] == held["held_peak_bytes"] / held["full_bytes"]
    assert held["ratio_history"] <= (0.2 if policy != "full" else 121 / 265)
    assert picture.image.size == (128, 128)


@needs_weights
def test_stopping_after_the_last_scale_is_not_stopping(pipeline: Pipeline) -> None:
    all_scales, stopped = (
        next(generate(pipeline, asked(seed=2, stop_after=stop))) for stop in (None, 7)
    )
    assert stopped.image.tobytes() == all_scales.image.tobytes()
    assert stopped.cache == all_scales.cache


def test_guidance_of_scales_that_are_not_drawn_is_none() -> None:
    late = (1.0,) * 6 + (3.0,)
    assert settle(asked(cfg=late), model_named("emoji")).guided
    assert not settle(asked(cfg=late, stop_after=6), model_named("emoji")).guided
    with pytest.raises(UserError, match="6 values for 7 scales"):
        settle(asked(cfg=late[:6], stop_after=6), model_named("emoji"))


def test_a_percentage_is_of_the_whole_picture() -> None:
    first = type(SEVEN)(SEVEN.scales[:6])
    budget = resolve(parse_budget("10%"), first, 2, picture=SEVEN)
    assert budget.mean == 26
    assert budget.percent is not None
    assert int(budget.percent * first.history / 100) == 26


@pytest.mark.parametrize(("stop", "fix"), [(0, 1), (8, 7)])
def test_there_is_no_such_scale(stop: int, fix: int) -> None:
    with pytest.raises(UserError, match=f"scale {stop}") as caught:
        settle(asked(stop_after=stop), model_named("emoji"))
    assert caught.value.fix == f"--stop-after {fix}"


def test_a_request_says_a_whole_number() -> None:
    with pytest.raises(UserError, match="stop_after is"):
        asked(stop_after=1.5)
