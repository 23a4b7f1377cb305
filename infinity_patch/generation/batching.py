"""How many pictures go through the model at once, and what happens when memory says fewer.

Knows plans, free bytes and what running out of memory looks like; makes no picture.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import replace

import torch

from scalekv.infinity_patch.asked.settled import Settled
from scalekv.infinity_patch.generation.patch import caches_of
from scalekv.infinity_patch.loading.loader import Pipeline
from scalekv.infinity_patch.loading.placement import Placement
from scalekv.infinity_patch.planning.footprint import FRAGMENTED, Work, footprint
from scalekv.infinity_patch.planning.planner import text_spec_of, work_of

SHARE = 0.9
"""Of the free memory, what a batch is planned to take; the rest is for what a plan misses."""

WEIGHTS = ("transformer", "vae", "text_encoder")
"""Parts of a plan that are on the device already when a batch begins."""

MOST = 64
"""The largest batch that is chosen without being asked for; time no longer falls beyond it."""

_SAYS_SO = ("can't allocate memory", "out of memory", "ALLOC_FAILED")
"""What other errors than `torch.OutOfMemoryError` say: the CPU's allocator, MPS, cuBLAS."""


def batch_size_of(settled: Settled, pipeline: Pipeline) -> int:
    """The most pictures to generate at once, at least 1.

    1 where the request is to be reproducible, which on a CPU it is unless it says otherwise.
    """
    if settled.batch is not None:
        return settled.batch
    if pipeline.device.type != "cuda":
        return 1  # nothing tells what is free
    room = int(SHARE * free_bytes(pipeline.device))
    work = work_on(pipeline, settled)
    sizes = range(1, min(MOST, settled.request.pictures) + 1)
    return max(1, bisect_right(sizes, room, key=lambda pictures: taken(work.of(pictures))))


def work_on(pipeline: Pipeline, settled: Settled) -> Work:
    """What memory depends on, of a request's pictures on a model that is loaded."""
    request, preset = settled.request, pipeline.preset
    texts = {request.text_of(prompt) for prompt in request.prompts} | {request.negative or ""}
    work = work_of(
        settled,
        Placement(),  # weights are on the device already, and not counted
        max(len(pipeline.text.counter.encode(text).ids) for text in texts),
        text_spec_of(preset, pipeline.weights_dir),
    )
    # what an outer `with patched(...)` block keeps is its own business: everything, at worst
    return work if caches_of(pipeline.model) is None else replace(work, budget=None)


def taken(work: Work) -> int:
    """Bytes on the device of the fullest moment of a batch, weights and runtime apart."""
    stages = footprint(work).stages
    moments = (
        sum(count for part, count in stages[stage].items() if part not in (*WEIGHTS, "runtime"))
        for stage in ("scales", "decode")
    )
    return int((1 + FRAGMENTED) * max(moments))


def free_bytes(device: torch.device) -> int:
    """Bytes that can still be allocated on a CUDA device, torch's own reserve included."""
    free, _ = torch.cuda.mem_get_info(device)
    reserve = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(free + reserve)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, of the machine or of a device."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _SAYS_SO)


def free_memory(device: torch.device) -> None:
    """Gives what torch keeps in reserve back to the device."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
