"""Pictures from the built-in model: the same wherever generated, and honest about memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from scalekv.infinity_patch import Pipeline, Progress, Request, generate, load
from scalekv.infinity_patch.generation.patch import patched, self_attentions
from scalekv.infinity_patch.generation.pipeline import settled_on
from scalekv.infinity_patch.loading.placement import Placement
from scalekv.infinity_patch.planning.footprint import footprint
from scalekv.infinity_patch.planning.planner import work_of
from scalekv.kv.errors import UserError
from scalekv.kv.memory.predicted import full_cache_bytes
from scalekv.kv.schedule import Schedule


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return load("emoji", device="cpu", dtype="fp32")


def test_a_loaded_model_knows_its_preset(pipeline: Pipeline) -> None:
    assert pipeline.model.preset_name == "emoji"
    with patched(pipeline.model, "full") as caches:
        assert caches.budget is None


def same(a: Image.Image, b: Image.Image) -> bool:
    return np.array_equal(np.asarray(a), np.asarray(b))


def test_a_seed_gives_the_same_picture_alone_and_among_others(pipeline: Pipeline) -> None:
    alone = next(generate(pipeline, Request(("an octopus",), seed=6)))
    among = list(generate(pipeline, Request(("a red apple", "an octopus"), seed=5)))
    assert [p.seed for p in among] == [5, 6]
    assert same(alone.image, among[1].image)
    assert not same(among[0].image, among[1].image)


def test_the_first_picture_is_out_before_the_second_is_made(pipeline: Pipeline) -> None:
    seen: list[Progress] = []
    pictures = generate(pipeline, Request(("a cat", "a dog")), on_progress=seen.append)
    next(pictures)
    assert [p.scale for p in seen] == list(range(7))
    assert {p.picture for p in seen} == {0}
    assert seen[-1].held_bytes > 0


def test_full_cache_is_reported_to_the_byte(pipeline: Pipeline) -> None:
    picture = next(generate(pipeline, Request(("a house",), policy="full")))
    spec = pipeline.preset.transformer
    schedule = Schedule.parse(picture.settings["schedule"])
    full = full_cache_bytes(schedule, spec.depth, 2, spec.heads, spec.head_dim, 4)
    assert picture.cache["held_peak_bytes"] == picture.cache["full_bytes"] == full
    assert picture.cache["ratio_history"] == 1


def test_ten_percent_is_what_is_held_while_each_scale_is_generated(pipeline: Pipeline) -> None:
    picture = next(generate(pipeline, Request(("a house",))))
    assert picture.settings["budget_tokens"] == 26  # floor of a tenth of 265
    token = picture.cache["full_bytes"] // 265
    held = [row["held_bytes"] for row in picture.cache["scales"]]
    # Drafters come first and grow a scale late, so that no moment sees more than is asked for.
    rows = [sum(row["layers"]["held_max"]) for row in picture.cache["scales"]]
    assert rows[:4] == [0, 8, 40, 168]
    assert 168 < rows[4] <= 208
    assert rows[5:] == [208, 208]
    assert held[3:] == [rows[3] * token // 8, rows[4] * token // 8] + [26 * token] * 2
    assert picture.cache["held_peak_bytes"] == 26 * token
    assert picture.truncated is None


def test_guidance_of_one_needs_no_unconditional_half(pipeline: Pipeline) -> None:
    with_guidance = next(generate(pipeline, Request(("a house",), policy="full")))
    without = next(generate(pipeline, Request(("a house",), policy="full", cfg=1.0)))
    assert without.cache["held_peak_bytes"] * 2 == with_guidance.cache["held_peak_bytes"]


def test_a_negative_prompt_changes_the_picture(pipeline: Pipeline) -> None:
    plain = next(generate(pipeline, Request(("a heart",))))
    other = next(generate(pipeline, Request(("a heart",), negative="a red heart")))
    assert not same(plain.image, other.image)


def test_a_long_prompt_is_cut_only_when_asked(pipeline: Pipeline) -> None:
    long = "apple " * 600
    with pytest.raises(UserError, match="tokens"):
        generate(pipeline, long)
    picture = next(generate(pipeline, Request((long,), truncate=True)))
    assert picture.truncated is not None
    assert picture.truncated.startswith("apple")


def test_leaving_in_the_middle_restores_the_model(pipeline: Pipeline) -> None:
    def stop(progress: Progress) -> None:
        if progress.scale == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        next(generate(pipeline, "a cat", on_progress=stop))
    assert not any("forward" in m.__dict__ for m in self_attentions(pipeline.model))


def test_inside_a_patch_its_caches_are_used(pipeline: Pipeline) -> None:
    own = next(generate(pipeline, Request(("a cat",), budget="20%")))
    with patched(pipeline.model, budget="20%") as caches:
        picture = next(generate(pipeline, "a cat"))
        assert caches.nbytes > 0
    assert same(own.image, picture.image)
    assert own.settings.pop("recorded")["objects"] == []
    assert picture.settings.pop("recorded")["objects"] == ["patched block"]
    assert own.settings == picture.settings


def test_inside_a_patch_another_budget_is_refused(pipeline: Pipeline) -> None:
    with patched(pipeline.model), pytest.raises(UserError, match="patched already"):
        generate(pipeline, Request(("a cat",), budget="20%"))


def test_seeds_of_ones_own(pipeline: Pipeline) -> None:
    asked = Request(("an octopus", "a red apple"), seeds=(6, 1))
    pictures = list(generate(pipeline, asked))
    assert [p.seed for p in pictures] == [6, 1]
    assert same(pictures[0].image, next(generate(pipeline, Request(("an octopus",), seed=6))).image)
    with pytest.raises(UserError, match="1 seeds for 2 pictures"):
        generate(pipeline, Request(("a", "b"), seeds=(1,)))
    with pytest.raises(UserError, match="seed -1"):
        generate(pipeline, Request(("a",), seeds=(-1,)))


@pytest.mark.parametrize(
    "change",
    [{"cfg_layer": -1}, {"cfg_layer": (-1, -5)}, {"positive_prompt": True}],
)
def test_what_changes_a_picture_is_recorded_with_it(
    pipeline: Pipeline, change: dict[str, Any]
) -> None:
    usual = next(generate(pipeline, Request(("a woman",))))
    other = next(generate(pipeline, Request(("a woman",), **change)))
    assert not same(usual.image, other.image)
    differing = {k for k, v in usual.settings.items() if other.settings[k] != v}
    assert differing == {*change, "recorded"}
    assert usual.settings["cfg_layer"] == [0]


def test_a_freed_text_encoder_comes_back_for_other_prompts() -> None:
    placement = Placement(keep_text_encoder=False)
    pipeline = load("emoji", device="cpu", placement=placement)
    first = next(generate(pipeline, Request(("a cat",))))
    assert pipeline.text.model is None
    again = next(generate(pipeline, Request(("a cat",))))
    assert pipeline.text.model is None  # its features are known
    assert same(first.image, again.image)
    other = next(generate(pipeline, Request(("a dog",))))
    assert not same(first.image, other.image)
    assert pipeline.text.model is None


def test_texts_may_be_encoded_before_the_transformer_is_there() -> None:
    request = Request(("a cat", "a dog"), negative="blur")
    plain = [picture.image for picture in generate(load("emoji", device="cpu"), request)]
    placement = Placement(text_first=True)
    pipeline = load("emoji", device="cpu", placement=placement, texts=request.texts)
    assert pipeline.stages.weights()["encode"] == {"text_encoder": pipeline.text.nbytes}
    assert pipeline.text.model is None
    assert pipeline.stages.weights()["load"]["text_encoder"] == 0
    drawn = [picture.image for picture in generate(pipeline, request)]
    assert all(map(same, plain, drawn))
    assert pipeline.text.model is None
    settled = settled_on(pipeline, request)
    stages = footprint(work_of(settled, placement)).stages
    assert (stages["encode"]["transformer"], stages["load"]["text_encoder"]) == (0, 0)
    assert stages["encode"]["text_encoder"] == pipeline.text.nbytes
