"""What a calibration is planned to take, against an allocator that counts."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from scalekv.configs.models import model_named
from scalekv.infinity_patch.asked.request import Request
from scalekv.infinity_patch.asked.settled import settle
from scalekv.infinity_patch.calibration.gradients import LastScaleGradients
from scalekv.infinity_patch.calibration.plan import gradient_bytes
from scalekv.infinity_patch.generation.patch import patched
from scalekv.infinity_patch.loading.fitting import skeletons
from scalekv.infinity_patch.model.scale_loop import Guidance, conditions, generate_codes
from scalekv.infinity_patch.planning.planner import Planner
from tests.infinity_patch.counting import Counting, shapes_only


class FusedAttention(torch.autograd.Function):
    """What a fused kernel holds of attention and of its gradients."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        ctx.save_for_backward(q, k, v)
        return torch.empty_like(q)

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> Any:
        return tuple(torch.empty_like(x) for x in ctx.saved_tensors)


TEXT_TOKENS = 64
SMALL = model_named("infinity-125m")
SMALL = replace(SMALL, transformer=replace(SMALL.transformer, depth=4, chunks=1))


def counted(pixels: str, gradients: bool) -> int:
    """The most bytes alive, weights apart, in a picture whose last scale's gradients are made; or
    in a plain one."""
    settled = settle(Request(("a",), policy="full", pixels=pixels), SMALL, "cuda")
    model: Any = skeletons(SMALL)[0]
    model.eval().requires_grad_(False).block_chunks.to(torch.bfloat16)
    scales = len(settled.schedule)
    guidance = Guidance((3.0,) * scales, (1.0,) * scales)
    pipeline: Any = SimpleNamespace(model=model)
    last = LastScaleGradients(pipeline, settled, lambda *_: None)

    def choose(scale: int, logits: Tensor) -> Tensor:
        return torch.zeros(logits.shape[:3], dtype=torch.uint8, device="meta")

    def observe(layer: int, scale: int, _schedule: Any, _q: Tensor, k: Tensor, v: Tensor) -> None:
        if scale + 1 == scales:
            last.seen(layer, k, v)

    counting, fused = Counting(), cast(Any, FusedAttention.apply)
    with torch.inference_mode(), shapes_only(), counting:
        F.scaled_dot_product_attention = lambda q, k, v, **_: fused(q, k, v)
        texts = [torch.empty((TEXT_TOKENS, SMALL.transformer.text_width), device="meta")]
        condition = conditions(model, texts, None, guidance)
        with last.watching() if gradients else nullcontext(), patched(model, "full") as caches:
            caches.observer = observe if gradients else None
            generate_codes(model, condition, settled.schedule, False, guidance, choose)
        return counting.peak


@pytest.mark.parametrize("pixels", ["0.06M", "1M"])
def test_gradients_take_what_is_planned(pixels: str) -> None:
    settled = settle(Request(("a",), pixels=pixels), SMALL, "cuda")
    shape = Planner(settled).footprint(1).work.shape
    beside = counted(pixels, gradients=True) - counted(pixels, gradients=False)
    planned = gradient_bytes(settled.schedule, shape, TEXT_TOKENS)
    assert beside <= planned <= 1.2 * beside
