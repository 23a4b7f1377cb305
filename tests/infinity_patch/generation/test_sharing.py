"""A pipeline in other people's programs: shared by threads, inside their blocks, among their own
settings."""

from __future__ import annotations

import copy
import hashlib
import logging
import pickle
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Event, Thread
from typing import Any

import pytest
import torch
from PIL import Image
from transformers.utils import logging as transformers_logging

from scalekv.infinity_patch import Pipeline, Request, generate, load, patched
from scalekv.infinity_patch.generation.turns import held, turn
from scalekv.infinity_patch.loading.placement import Placement
from scalekv.kv.errors import UserError


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return load("emoji", device="cpu", dtype="fp32")


def digest(image: Image.Image) -> str:
    return hashlib.sha256(image.tobytes()).hexdigest()


def draw(pipeline: Pipeline, prompt: str, **asked: Any) -> str:
    return digest(next(generate(pipeline, Request(prompt, seed=3, **asked))).image)


def test_threads_take_turns(pipeline: Pipeline) -> None:
    asked = [("a red apple", "10%"), ("an octopus", "full")] * 4
    alone = {one: draw(pipeline, one[0], budget=one[1]) for one in asked[:2]}
    with ThreadPoolExecutor(4) as pool:
        drawn = list(pool.map(lambda one: draw(pipeline, one[0], budget=one[1]), asked))
    assert drawn == [alone[one] for one in asked]


def test_a_block_is_its_threads_alone(pipeline: Pipeline) -> None:
    """Refused at the start: whoever holds the block may be waiting for the other."""
    with ThreadPoolExecutor(1) as pool, patched(pipeline.model, "full"):
        for work in (
            lambda: draw(pipeline, "an owl"),
            lambda: patched(pipeline.model, "full").__enter__(),
        ):
            with pytest.raises(UserError, match="patched by another thread"):
                pool.submit(work).result(60)
        assert draw(pipeline, "an owl")
    assert draw(pipeline, "an owl")


def test_what_was_begun_waits_for_the_others_block(pipeline: Pipeline) -> None:
    alone = [digest(p.image) for p in generate(pipeline, Request("an owl", num_images=2))]
    begun, entered, drawn = Event(), Event(), []

    def work() -> None:
        for picture in generate(pipeline, Request("an owl", num_images=2)):
            drawn.append(digest(picture.image))
            begun.set()
            entered.wait(60)

    thread = Thread(target=work)
    thread.start()
    begun.wait(60)
    with patched(pipeline.model, "full"):
        entered.set()
        thread.join(0.5)
        assert len(drawn) == 1
    thread.join(60)
    assert drawn == alone


def test_blocks_of_other_models_are_nobodys_business() -> None:
    one, other = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
    with held(one), ThreadPoolExecutor(1) as pool:

        def work() -> bool:
            with held(other), turn(other):
                return True

        assert pool.submit(work).result(10)


def test_pictures_are_taken_where_they_were_asked_for(pipeline: Pipeline) -> None:
    with patched(pipeline.model, "full"):
        inside = generate(pipeline, "an owl")
        kept = generate(pipeline, Request("an owl", num_images=2))
        next(kept)
    for pictures in (inside, kept):
        with pytest.raises(UserError, match=r"outside the `with patched"):
            next(pictures)
    outside = generate(pipeline, "an owl")
    with patched(pipeline.model, "full"), pytest.raises(UserError, match="inside a later block"):
        next(outside)


def test_a_patched_model_is_not_copied(pipeline: Pipeline) -> None:
    with patched(pipeline.model, "full"):
        for work in (copy.deepcopy, pickle.dumps):
            with pytest.raises(UserError, match="cannot be copied"):
                work(pipeline.model)
    copy.deepcopy(pipeline.model.blocks[0])


@pytest.fixture
def own_settings() -> Iterator[dict[str, Any]]:
    """Settings of a host program, none of them torch's or transformers' defaults."""
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    verbosity, root = transformers_logging.get_verbosity(), logging.getLogger().level
    torch.set_num_threads(3)
    torch.set_float32_matmul_precision("high")
    transformers_logging.set_verbosity_info()
    logging.getLogger().setLevel(logging.CRITICAL)
    transformers_logging.enable_progress_bar()
    yield settings()
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision(precision)
    transformers_logging.set_verbosity(verbosity)
    logging.getLogger().setLevel(root)


def settings() -> dict[str, Any]:
    return {
        "threads": torch.get_num_threads(),
        "dtype": torch.get_default_dtype(),
        "precision": torch.get_float32_matmul_precision(),
        "tf32": torch.backends.cuda.matmul.allow_tf32,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "gradients": torch.is_grad_enabled(),
        "random": torch.get_rng_state().tolist(),
        "verbosity": transformers_logging.get_verbosity(),
        "bars": transformers_logging.is_progress_bar_enabled(),
        "root": logging.getLogger().level,
    }


def test_the_host_programs_settings_stay(own_settings: dict[str, Any]) -> None:
    pipeline = load("emoji", device="cpu", dtype="fp32", placement=Placement(threads=1))
    assert settings() == own_settings
    picture = next(generate(pipeline, "an owl"))
    assert picture.settings["machine"]["threads"] == 1
    assert settings() == own_settings


def test_the_default_dtype_changes_no_picture(pipeline: Pipeline) -> None:
    alone = draw(pipeline, "an owl")
    torch.set_default_dtype(torch.float64)
    try:
        assert draw(load("emoji", device="cpu", dtype="fp32"), "an owl") == alone
    finally:
        torch.set_default_dtype(torch.float32)
