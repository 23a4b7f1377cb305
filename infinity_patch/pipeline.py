"""One generation, in numbered stages: text, schedule, patched scale loop, decoding."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from scalekv.infinity_patch.loader import Pipeline
from scalekv.infinity_patch.patch import caches_of, patched
from scalekv.infinity_patch.request import (
    DEFAULT_POLICY,
    Request,
    budget_of,
    check,
    per_scale,
    schedule_of,
)
from scalekv.infinity_patch.sampling import BitSampler
from scalekv.infinity_patch.scale_loop import (
    Guidance,
    conditions,
    generate_codes,
    to_uint8,
)
from scalekv.infinity_patch.tokens import cut_prompt
from scalekv.kv.budget import Budget
from scalekv.kv.caches import Caches
from scalekv.kv.errors import UserError
from scalekv.kv.schedule import Schedule


@dataclass(frozen=True)
class Progress:
    """How far a generation is: picture and scale from 0, the latter just done."""

    picture: int
    pictures: int
    scale: int
    scales: int
    held_bytes: int


@dataclass(frozen=True)
class Picture:
    """A finished picture.

    settings: everything that is needed to make it again; cache: the ledger of its caches;
    truncated: what was cut off the prompt, or None; seconds: first scale to decoded picture.
    """

    image: Image.Image
    prompt: str
    seed: int
    index: int
    settings: dict[str, Any]
    cache: dict[str, Any]
    truncated: str | None
    seconds: float


def generate(
    pipeline: Pipeline,
    request: Request | str,
    *,
    on_progress: Callable[[Progress], None] | None = None,
) -> Iterator[Picture]:
    """Generate pictures one after another, each with a random stream of its own.

    Args:
        request: what to generate; a string is a prompt with everything else as by default.
            Inside a `with patched(pipeline.model, ...)` block the block's caches are used.

    Yields:
        Each picture as soon as it is done.

    Raises:
        UserError: a request that cannot be fulfilled, before the first picture.
    """
    asked = Request((request,)) if isinstance(request, str) else request
    check(asked, pipeline.preset, pipeline.weights_dir)
    given = asked.policy is not None or asked.budget is not None or asked.drafters is not None
    if given and caches_of(pipeline.model) is not None:
        raise UserError(
            "the model is patched already, and the request names a policy or budget too",
            where="generate(pipeline, request)",
            rule="inside a `with patched(...)` block pictures use the caches of that block",
            fix="leave policy, budget and drafters out of the request, or leave the block",
        )
    return _pictures(pipeline, asked, on_progress)


def _pictures(
    pipeline: Pipeline, request: Request, on_progress: Callable[[Progress], None] | None
) -> Iterator[Picture]:
    # 1. text, once for all pictures
    prompts = dict.fromkeys(request.prompts)
    cut = {p: cut_prompt(pipeline.text.counter, p, "prompt", request.truncate) for p in prompts}
    features = dict(zip(prompts, pipeline.text.encode(list(prompts)), strict=True))
    negative = None
    if request.negative is not None:
        negative = pipeline.text.encode([request.negative])[0]
    # 2. schedule, budget, guidance
    schedule = schedule_of(request, pipeline.preset)
    budget = budget_of(request, pipeline.preset, schedule)
    guidance = guidance_of(request, pipeline, schedule)
    settings = settings_of(request, pipeline, schedule, guidance)
    pictures = len(request.prompts) * request.num_images
    for index in range(pictures):
        prompt = request.prompts[index // request.num_images]
        seed = request.seed + index
        start = time.perf_counter()

        def report(scale: int, held: int, index: int = index) -> None:
            if on_progress is not None:
                on_progress(Progress(index, pictures, scale, len(schedule), held))

        # 3. scales, with the caches patched in for this picture alone
        codes, cache = _codes(
            pipeline, request, budget, schedule, guidance, features[prompt], negative, seed, report
        )
        # 4. decoding, when the caches are gone
        with torch.inference_mode():
            pixels = to_uint8(pipeline.vae.decode(codes))[0].cpu().numpy()
        yield Picture(
            image=Image.fromarray(pixels),
            prompt=prompt,
            seed=seed,
            index=index,
            settings={"prompt": prompt, "seed": seed, **_cache_settings(cache), **settings},
            cache=cache,
            truncated=cut[prompt] or None,
            seconds=time.perf_counter() - start,
        )


@contextmanager
def _caches(
    pipeline: Pipeline, request: Request, budget: Budget, schedule: Schedule
) -> Iterator[Caches]:
    """The caches to generate with: those the caller has patched in, or the request's own."""
    outer = caches_of(pipeline.model)
    if outer is not None:
        yield outer
        return
    with patched(
        pipeline.model,
        request.policy or DEFAULT_POLICY,
        budget,
        schedule,
        kv_dtype=request.kv_dtype,
        kv_device=request.kv_device,
    ) as caches:
        yield caches


def _codes(
    pipeline: Pipeline,
    request: Request,
    budget: Budget,
    schedule: Schedule,
    guidance: Guidance,
    text: Tensor,
    negative: Tensor | None,
    seed: int,
    report: Callable[[int, int], None],
) -> tuple[Tensor, dict[str, Any]]:
    """The summed codes (1, b, H, W) of one picture and the ledger of its caches."""
    sampler = BitSampler([seed], request_top_p(request, pipeline))
    with torch.inference_mode(), _caches(pipeline, request, budget, schedule) as caches:
        codes = generate_codes(
            pipeline.model,
            conditions(pipeline.model, [text], negative, guidance),
            schedule,
            pipeline.preset.tokenizer.patchify,
            guidance,
            sampler,
            after_scale=lambda scale: report(scale, caches.nbytes),
        )
        assert caches.ledger is not None
        return codes, caches.ledger.to_dict()


def request_top_p(request: Request, pipeline: Pipeline) -> float:
    """The request's nucleus, or the preset's."""
    return pipeline.preset.sampling.top_p if request.top_p is None else request.top_p


def guidance_of(request: Request, pipeline: Pipeline, schedule: Schedule) -> Guidance:
    """Guidance strengths and temperatures per scale, the request's or the preset's."""
    sampling = pipeline.preset.sampling
    cfg = sampling.cfg if request.cfg is None else request.cfg
    tau = sampling.tau if request.tau is None else request.tau
    scales = len(schedule)
    return Guidance(
        per_scale(cfg, scales, "--cfg"), per_scale(tau, scales, "--tau"), sampling.cfg_layer
    )


def _cache_settings(cache: dict[str, Any]) -> dict[str, Any]:
    """Policy and budget, as the ledger of the picture's caches has them."""
    budget = cache["budget"]
    return {
        "policy": cache["policy"],
        "budget": "full" if budget is None else budget["label"],
        "budget_tokens": cache["history_tokens"] if budget is None else budget["mean"],
        "budget_origin": "" if budget is None else budget["origin"],
        "kv_dtype": cache["kv_dtype"],
    }


def settings_of(
    request: Request, pipeline: Pipeline, schedule: Schedule, guidance: Guidance
) -> dict[str, Any]:
    """What, with prompt, seed, policy and budget, makes the same picture again."""
    return {
        "model": pipeline.preset.name,
        "cfg": list(guidance.cfg),
        "tau": list(guidance.tau),
        "cfg_layer": guidance.layer,
        "top_p": request_top_p(request, pipeline),
        "ratio": request.ratio,
        "pixels": request.pixels or pipeline.preset.pixels,
        "schedule": str(schedule),
        "negative": request.negative,
        "truncate": request.truncate,
        "device": str(pipeline.device),
        "dtype": str(pipeline.dtype).removeprefix("torch."),
        "versions": {"scalekv": version("scalekv"), "torch": torch.__version__},
    }
