"""How many pictures go through the model at once, and what happens when memory says fewer.

Knows shapes, bytes and what running out of memory looks like; nothing of text or of pictures.
"""

from __future__ import annotations

import torch

from scalekv.infinity_patch.loader import Pipeline
from scalekv.infinity_patch.patch import caches_of
from scalekv.infinity_patch.request import Request, fixed_batch, planned_for
from scalekv.infinity_patch.scale_loop import Guidance
from scalekv.kv.budget import Budget
from scalekv.kv.memory import CacheShape, predicted
from scalekv.kv.precision import precision_of
from scalekv.kv.schedule import Schedule

SHARE = 0.8
"""Of the free memory, what a batch is planned to take; the rest is for what an estimate misses."""

MOST = 64
"""The largest batch that is chosen without being asked for; time no longer falls beyond it."""

_SAYS_SO = ("can't allocate memory", "out of memory", "ALLOC_FAILED")
"""What other errors than `torch.OutOfMemoryError` say: the CPU's allocator, MPS, cuBLAS."""


def batch_size_of(
    request: Request,
    pipeline: Pipeline,
    schedule: Schedule,
    budget: Budget,
    guidance: Guidance,
) -> int:
    """The most pictures to generate at once, at least 1.

    1 where the request is to be reproducible, which on a CPU it is unless it says otherwise.
    """
    fixed = fixed_batch(request, pipeline.device.type)
    if fixed is not None:
        return fixed
    if pipeline.device.type != "cuda":
        return 1  # nothing tells what is free
    # what an outer `with patched(...)` block keeps is its own business: everything, at worst
    kept = (
        planned_for(request, pipeline.preset, budget) if caches_of(pipeline.model) is None else None
    )
    needed = picture_bytes(request, pipeline, schedule, kept, 2 if guidance.needed else 1)
    fitting = int(SHARE * free_bytes(pipeline.device)) // needed
    return max(1, min(fitting, MOST, request.pictures))


def picture_bytes(
    request: Request,
    pipeline: Pipeline,
    schedule: Schedule,
    kept: Budget | None,
    halves: int,
) -> int:
    """About the most bytes on the device that one more picture in a batch takes, weights apart.

    Counted: the caches at their peak; the workspace of one layer and a copy of it; the activations
    of the largest map in one block; keys and values of a text of full length.

    Args:
        kept: the budget as the policy plans it; None: everything is held.
        halves: 2 with guidance, else 1.
    """
    spec = pipeline.preset.transformer
    element = pipeline.dtype.itemsize
    shape = CacheShape(spec.depth, halves, spec.heads, spec.head_dim, element, element)
    precision = precision_of(request.kv_dtype, "fp32" if element == 4 else "bf16")
    cache = predicted(schedule, shape, kept, precision)
    held = 0 if request.kv_device == "cpu" else cache.held_peak_bytes + cache.index_peak_bytes
    # In units of the width, per token: residual stream, its norms and modulation and rotated q and
    # k in float32, eight in all; q, k, v, the answer and the feed-forward's two layers in `dtype`.
    activations = halves * schedule.tokens[-1] * spec.width * (8 * 4 + 12 * element)
    text = shape.bytes_of(spec.text_max)
    return held + 2 * cache.transient_peak_bytes + activations + text


def free_bytes(device: torch.device) -> int:
    """Bytes that can still be allocated on a CUDA device, torch's own reserve included."""
    free, _ = torch.cuda.mem_get_info(device)
    reserve = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(free + reserve)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, of the machine or of a device."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(said in str(error) for said in _SAYS_SO)


def free_memory(device: torch.device) -> None:
    """Gives what torch keeps in reserve back to the device."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
