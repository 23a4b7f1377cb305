"""What is measured of one side at one batch on a GPU: seconds computed and replayed, peaks beside
the plan, kernels. Knows sides by their names; nothing of which are compared."""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from scalekv.infinity_patch import Request
from scalekv.infinity_patch.asked.settled import settle
from scalekv.infinity_patch.compute.graphs import CudaTapes
from scalekv.infinity_patch.generation import scales
from scalekv.infinity_patch.model.sampling import BitSampler
from scalekv.infinity_patch.model.scale_loop import text_rows
from scalekv.infinity_patch.pieces import padded_text
from scalekv.infinity_patch.planning.planner import Planner
from scalekv.infinity_patch.schedules import schedule_for
from scalekv.kv.coded import held
from scalekv.kv.coded.constants import write_constants
from scripts.bench.bound import seconds
from scripts.bench.stretched import stretched
from scripts.bench.transformer import PROMPT_TOKENS, TimedSide, picture

BY_TORCH = " by torch"
"""What a side's name ends with where a coded cache is coded without its kernels."""

_folder = tempfile.TemporaryDirectory(prefix="scalekv-")


@contextmanager
def coding_as(side: str) -> Iterator[None]:
    """A coded cache without its kernels where the side says so."""
    if not side.endswith(BY_TORCH):
        yield
        return
    held.codec_of.cache_clear()
    try:
        with patch.object(held, "by_kernels", lambda device: False):
            yield
    finally:
        held.codec_of.cache_clear()


def row(model: Any, preset: Any, side: str, pixels: str, batch: int, device: str) -> dict[str, Any]:
    """One side at one batch: seconds, peak beyond weights, plan, kernels and busy seconds."""
    place, schedule = torch.device(device), schedule_for("1:1", pixels)
    timed = TimedSide(side.removesuffix(BY_TORCH), model, preset)
    cuda = place.type == "cuda"

    def run() -> None:
        picture(timed, schedule, place, batch)

    gc.collect()
    before = 0
    if cuda:
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated()
    run()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    found: dict[str, Any] = {"side": side, "batch": batch, "seconds": seconds(run, place, 3)}
    if cuda:
        found["peak"] = torch.cuda.max_memory_allocated() - before
        found |= busy(run)
    found["planned"] = planned(preset, side, pixels, batch, model.compute_dtype.itemsize)
    return found


def replayed(
    model: Any, preset: Any, side: str, pixels: str, batch: int, device: str
) -> dict[str, Any]:
    """The same recorded as CUDA graphs: seconds of a replay, whether it draws what was computed,
    and bytes of the device's memory that the recording holds."""
    place, spec, tokenizer = torch.device(device), preset.transformer, preset.tokenizer
    settled = asked(preset, side, pixels, model.compute_dtype.itemsize).allotted(batch)
    texts = [torch.randn(PROMPT_TOKENS, spec.text_width, device=place)] * batch
    with torch.inference_mode():
        rows = text_rows(
            model,
            texts,
            None,
            scales.guidance_of(settled),
            padded_text(PROMPT_TOKENS, spec.text_max),
        )
        sampler = BitSampler(list(range(batch)), settled.top_p)
        noise = sampler.draw_ahead(settled.schedule, tokenizer.token_bits, place)
        drawn = scales.computed(
            model, tokenizer.patchify, settled, rows, sampler, lambda scale, held: None
        )
        tapes = CudaTapes(place)
        recording = scales.Recording(model, tokenizer.patchify, settled, rows, noise, tapes.begin())
        tapes.end()

        def run() -> Any:
            return recording.replayed(rows, noise, lambda scale, held: None)

        same = torch.equal(run().codes, drawn.codes)
        return {"replayed": seconds(run, place, 3), "same": same, "recorded": tapes.nbytes}


def asked(preset: Any, side: str, pixels: str, element: int) -> Any:
    """One side's pictures as a request that is settled for a device."""
    policy, _, budget = side.removesuffix(BY_TORCH).partition(":")
    if policy == "coded":
        policy = f"coded:{constants_of(preset)}"
    request = Request(("a",), policy=policy, budget=budget or "full", pixels=pixels)
    return settle(request, preset, "cuda", "bf16" if element == 2 else "fp32")


@cache
def constants_of(preset: Any) -> Path:
    """A file of constants of a coded cache for a model of random weights."""
    spec = preset.transformer
    path = Path(_folder.name) / f"{preset.name}.safetensors"
    path.write_bytes(write_constants(stretched(spec.depth, spec.heads, spec.head_dim)))
    return path


def planned(preset: Any, side: str, pixels: str, batch: int, element: int) -> int:
    """Bytes the plan has for the scales, weights apart."""
    stage = (
        Planner(asked(preset, side, pixels, element), text_tokens=20)
        .footprint(batch)
        .stages["scales"]
    )
    apart = ("transformer", "vae", "text_encoder", "runtime")
    return sum(count for part, count in stage.items() if part not in apart)


def busy(run: Callable[[], None]) -> dict[str, Any]:
    """Kernels of one run, and the seconds in which they ran."""
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        run()
        torch.cuda.synchronize()
    events = [e for e in profiler.events() if e.device_type == DeviceType.CUDA]
    spent = sum(event.time_range.elapsed_us() for event in events)
    return {"kernels": len(events), "busy": spent / 1e6}
