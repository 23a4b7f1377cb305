"""Forced bits: on the cache that drew them they are certain to agree, on another they tell."""

from __future__ import annotations

import pytest
import torch

from scalekv.infinity_patch import Pipeline, Request, load
from scalekv.infinity_patch.generation.forced import (
    force_bits,
    forced_on_all,
    scale_means,
)
from scalekv.infinity_patch.generation.pipeline import generate, settled_on
from scalekv.infinity_patch.model.scale_loop import to_uint8
from scalekv.kv.errors import UserError


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return load("emoji", dtype="fp32", device="cpu")


def test_what_is_drawn_is_the_picture(pipeline: Pipeline) -> None:
    request = Request("a fox", policy="full", seed=3)
    drawn = force_bits(pipeline, settled_on(pipeline, request), "a fox", 3)
    with torch.inference_mode():
        pixels = to_uint8(pipeline.vae.decode(drawn.total))[0].numpy()
    (picture,) = generate(pipeline, request)
    assert pixels.tobytes() == picture.image.tobytes()
    assert drawn.cache["held_peak_bytes"] == picture.cache["held_peak_bytes"]
    assert (drawn.agreement, [scale.bits for scale in drawn.scales][:2]) == (1.0, [16, 64])


def test_the_full_caches_bits_on_others(pipeline: Pipeline) -> None:
    full, tight, coded = (
        settled_on(pipeline, Request("a fox", policy=policy, budget=budget))
        for policy, budget in (("full", "full"), ("streaming-llm", "5%"), ("coded", "10%"))
    )
    own, dropped, kept = forced_on_all(pipeline, full, [tight, coded], "a fox", 0)
    for one in (dropped, kept):
        assert all(torch.equal(a, b) for a, b in zip(own.bits, one.bits, strict=True))
        assert torch.equal(own.total, one.total)
    assert dropped.scales[0].agreement == dropped.scales[1].agreement == 1
    assert dropped.agreement < kept.agreement < own.agreement == 1
    assert dropped.surprise > kept.surprise
    means = scale_means([own, dropped])
    assert means["agreement_by_scale"][-1] == pytest.approx(
        (1 + dropped.scales[-1].agreement) / 2, abs=1e-6
    )


def test_the_model_by_itself(pipeline: Pipeline) -> None:
    full = settled_on(pipeline, Request("a fox", policy="full"))
    patched = force_bits(pipeline, full, "a fox", 0)
    own = force_bits(pipeline, full, "a fox", 0, unpatched=True)
    assert all(torch.equal(a, b) for a, b in zip(own.bits, patched.bits, strict=True))
    assert own.cache == {}


def test_bits_of_another_size(pipeline: Pipeline) -> None:
    full = settled_on(pipeline, Request("a fox", policy="full"))
    with pytest.raises(UserError, match="another schedule"):
        force_bits(pipeline, full, "a fox", 0, [torch.zeros(1, 1, 16, dtype=torch.uint8)])
