"""Several pictures at once: what each gets does not depend on the others, and memory decides how
many there are."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from scalekv.infinity_patch import Pipeline, Progress, Request, generate, load
from scalekv.infinity_patch.generation import batching
from scalekv.infinity_patch.generation import scales as scales_module
from scalekv.infinity_patch.generation.batching import (
    SHARE,
    batch_size_of,
    free_memory,
    out_of_memory,
    taken,
    work_on,
)
from scalekv.infinity_patch.generation.patch import patched
from scalekv.infinity_patch.generation.pipeline import settled_on
from scalekv.infinity_patch.model.sampling import BitSampler
from scalekv.infinity_patch.model.scale_loop import Guidance, conditions, generate_codes
from scalekv.infinity_patch.planning.footprint import Work, footprint
from scalekv.kv.errors import UserError
from scalekv.kv.policies.registry import policy_names
from tests.infinity_patch.small import SHORT, features, ready, small_model

TEXTS = [features(3, seed=1), features(11, seed=2), features(5, seed=3)]
TOGETHER: dict[str, Any] = {"batch_size": 4, "reproducible": False}


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return load("emoji", device="cpu", dtype="fp32")


@pytest.mark.parametrize("negative", [None, features(4, seed=9)], ids=["learned", "negative"])
@pytest.mark.parametrize(
    ("policy", "kv_dtype"), [*((name, "auto") for name in policy_names()), ("scalekv", "bf16")]
)
def test_every_policy_gives_a_picture_the_same_logits_in_a_batch(
    policy: str, kv_dtype: str, negative: Tensor | None
) -> None:
    # Every picture is fed the bits it drew alone, so that rounding cannot part their ways.
    model = small_model()
    how = Guidance((3.0,) * len(SHORT), (0.8,) * len(SHORT))
    bits: list[list[Tensor]] = []
    alone: list[list[Tensor]] = []
    for seed, text in enumerate(TEXTS):
        sampler = BitSampler([seed], 0.97)
        drawn: list[Tensor] = []
        seen: list[Tensor] = []

        def choose(
            scale: int,
            logits: Tensor,
            sampler: BitSampler = sampler,
            drawn: list[Tensor] = drawn,
            seen: list[Tensor] = seen,
        ) -> Tensor:
            seen.append(logits.clone())
            drawn.append(sampler(scale, logits))
            return drawn[-1]

        with torch.inference_mode(), patched(model, ready(policy), "20%", SHORT, guided=True):
            condition = conditions(model, [text], negative, how)
            generate_codes(model, condition, SHORT, False, how, choose)
        bits.append(drawn)
        alone.append(seen)

    def recorded(scale: int, logits: Tensor) -> Tensor:
        expected = torch.cat([logits_of[scale] for logits_of in alone])
        torch.testing.assert_close(logits, expected, rtol=0, atol=3e-3)
        return torch.cat([drawn[scale] for drawn in bits])

    with torch.inference_mode(), patched(model, ready(policy), "20%", SHORT, guided=True) as caches:
        condition = conditions(model, TEXTS, negative, how)
        generate_codes(model, condition, SHORT, False, how, recorded)
        assert caches.ledger is not None
        assert caches.ledger.shape.sequences == 2 * len(TEXTS)


def test_a_batch_is_drawn_from_the_same_streams(pipeline: Pipeline) -> None:
    prompts = ("a red apple", "an octopus", "a pizza with cheese on a plate")
    seen: list[Progress] = []
    asked = Request(prompts, num_images=2, seed=3, batch_size=4, reproducible=False)
    together = list(generate(pipeline, asked, on_progress=seen.append))
    alone = list(generate(pipeline, replace(asked, batch_size=1)))
    assert [(p.picture, p.together) for p in seen[::7]] == [(0, 4), (4, 2)]
    assert [p.together for p in together] == [4, 4, 4, 4, 2, 2]
    assert [p.settings["batch"] for p in together] == [4, 4, 4, 4, 2, 2]
    for one, other in zip(together, alone, strict=True):
        assert (one.prompt, one.seed, one.index) == (other.prompt, other.seed, other.index)
        assert one.cache["shape"]["sequences"] == 2 * one.together
        assert one.cache["full_bytes"] == one.together * other.cache["full_bytes"]
        assert one.cache["held_peak_bytes"] == one.together * other.cache["held_peak_bytes"]
        equal = np.asarray(one.image) == np.asarray(other.image)
        assert equal.mean() > 0.9  # rounding may flip a bit, another stream flips most


def test_on_a_cpu_pictures_run_one_at_a_time(pipeline: Pipeline) -> None:
    pictures = list(generate(pipeline, Request(("a cat", "a dog"), batch_size=2)))
    assert [p.together for p in pictures] == [1, 1]
    asked = Request(("a cat", "a dog"), batch_size=2, reproducible=True)
    assert [p.together for p in generate(pipeline, asked)] == [1, 1]


@pytest.fixture
def little_memory(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Room for two pictures; the sizes that were tried."""
    tried: list[int] = []
    whole = generate_codes

    def limited(model: Any, condition: Any, *arguments: Any, **options: Any) -> Tensor:
        tried.append(len(condition.start) // 2)
        if tried[-1] > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return whole(model, condition, *arguments, **options)

    monkeypatch.setattr(scales_module, "generate_codes", limited)
    return tried


def test_a_batch_is_halved_until_it_fits(pipeline: Pipeline, little_memory: list[int]) -> None:
    told: list[int] = []
    asked = Request(("a cat",), num_images=5, batch_size=5, reproducible=False)
    pictures = list(generate(pipeline, asked, on_smaller_batch=told.append))
    assert [p.index for p in pictures] == [0, 1, 2, 3, 4]
    assert (little_memory, told) == ([5, 2, 2, 1], [2])


def test_a_picture_that_does_not_fit_alone_is_an_error(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> Tensor:
        raise MemoryError

    monkeypatch.setattr(scales_module, "generate_codes", full)
    with pytest.raises(MemoryError):
        list(generate(pipeline, Request(("a cat",), num_images=2, **TOGETHER)))


def test_what_running_out_of_memory_looks_like() -> None:
    allocator = "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"
    blas = "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"
    for error in (MemoryError(), torch.OutOfMemoryError("x"), RuntimeError(allocator)):
        assert out_of_memory(error)
    assert out_of_memory(RuntimeError(blas))
    assert not out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not out_of_memory(ValueError("out of memory"))
    free_memory(torch.device("cpu"))


def test_bytes_are_for_the_whole_batch(pipeline: Pipeline) -> None:
    asked = Request(("a cat", "a dog", "a fox"), budget="400KiB", batch_size=2, reproducible=False)
    pictures = list(generate(pipeline, asked))
    assert [picture.together for picture in pictures] == [2, 2, 1]
    for picture in pictures:  # the last one too, so that pictures of a run are held alike
        shape = picture.cache["shape"]
        token = shape["layers"] * shape["heads"] * shape["head_dim"] * 8 * 2 * 2
        assert picture.settings["budget_tokens"] == 400 * 1024 // token
        assert picture.cache["scales"][-1]["held_bytes"] <= 400 * 1024
    alone = next(generate(pipeline, replace(asked, batch_size=1)))
    assert alone.settings["budget_tokens"] == 2 * pictures[0].settings["budget_tokens"]


def work(pipeline: Pipeline, request: Request) -> Work:
    on_gpu = replace(pipeline, device=torch.device("cuda"))
    return work_on(pipeline, settled_on(on_gpu, request))


@pytest.fixture
def room(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """Free memory for ten pictures that keep everything."""
    full = taken(work(pipeline, Request(("x",), policy="full")).of(10))
    monkeypatch.setattr(batching, "free_bytes", lambda _: int(full / SHARE) + 1)


def size_on_gpu(pipeline: Pipeline, request: Request) -> int:
    gpu = replace(pipeline, device=torch.device("cuda"))
    return batch_size_of(settled_on(gpu, request), gpu)


@pytest.mark.usefixtures("room")
def test_auto_is_what_free_memory_takes(pipeline: Pipeline) -> None:
    many = Request(("x",), num_images=100, batch_size="auto", policy="full")
    assert size_on_gpu(pipeline, many) == 9  # the scales' memory is kept while one is decoded
    assert size_on_gpu(pipeline, replace(many, policy="scalekv")) > 10
    assert size_on_gpu(pipeline, replace(many, kv_device="cpu")) > 10
    assert size_on_gpu(pipeline, replace(many, cfg=1.0)) > 10
    assert size_on_gpu(pipeline, replace(many, prompts=("x " * 200,))) < 10
    assert size_on_gpu(pipeline, replace(many, num_images=3)) == 3
    assert size_on_gpu(pipeline, replace(many, batch_size=12)) == 12
    assert size_on_gpu(pipeline, replace(many, reproducible=True)) == 1
    with patched(pipeline.model, "full"):
        assert size_on_gpu(pipeline, replace(many, policy=None)) == 9


def test_one_picture_is_tried_however_little_is_free(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batching, "free_bytes", lambda _: 0)
    assert size_on_gpu(pipeline, Request(("x",), num_images=9, batch_size="auto")) == 1


def test_what_is_on_the_device_already_is_not_counted_again(pipeline: Pipeline) -> None:
    one = work(pipeline, Request(("x",)))
    weights = sum(pipeline.weights_bytes.values())
    assert taken(one) + weights < footprint(one).needed
    assert taken(one.of(8)) < 8 * taken(one)


@pytest.mark.parametrize("size", [0, -1, "many"])
def test_a_batch_size_that_is_none(pipeline: Pipeline, size: int | str) -> None:
    with pytest.raises(UserError, match="batch size"):
        generate(pipeline, Request(("x",), batch_size=size))
