"""A small transformer with filled weights, and pictures' codes from it, for tests."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from scalekv.configs.spec import TransformerSpec
from scalekv.infinity_patch.model.sampling import BitSampler
from scalekv.infinity_patch.model.scale_loop import Guidance, conditions, generate_codes
from scalekv.infinity_patch.model.transformer import Infinity
from scalekv.infinity_patch.schedules import schedule_for
from scalekv.kv.policies.coded import CodedPolicy
from scalekv.kv.policies.policy import Policy
from scalekv.kv.policies.registry import entry_named
from scalekv.kv.schedule import Schedule
from tests.golden.weights import tensor_value
from tests.kv.coded.made import made_constants
from tests.kv.stand_in import policy_for

SPEC = TransformerSpec(depth=4, width=128, heads=2, chunks=2, text_width=128)
BITS = 8
SHORT = schedule_for("1:1", "0.06M")


def small_model(dtype: torch.dtype = torch.float32) -> Infinity:
    """Four blocks of width 128 with filled weights; the blocks in `dtype`."""
    model = Infinity(SPEC, BITS).eval().requires_grad_(False)
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    model.load_state_dict({n: tensor_value(n, s, 3) for n, s in shapes.items()})
    model.block_chunks.to(dtype)
    return model


def features(length: int = 5, seed: int = 0) -> Tensor:
    """Text features of `length` tokens."""
    return torch.randn(length, SPEC.text_width, generator=torch.Generator().manual_seed(seed))


def ready(policy: str) -> str | Policy:
    """A policy as `patched` takes it for the small model; a made-up calibration where it needs
    one."""
    if policy == "coded":
        return CodedPolicy(made_constants(SPEC.depth, SPEC.heads, SPEC.head_dim, len(SHORT) - 1))
    entry = entry_named(policy)
    if entry is None or not entry.calibration:
        return policy
    return policy_for(policy, SHORT, SPEC.depth, SPEC.heads)


def run(
    model: Infinity,
    schedule: Schedule = SHORT,
    seed: int = 0,
    inside: AbstractContextManager[Any] | None = None,
    **guidance: Any,
) -> tuple[Tensor, list[Tensor]]:
    """Codes of one picture, and the logits of every scale."""
    scales = len(schedule)
    settings: dict[str, Any] = {"cfg": (3.0,) * scales, "tau": (0.8,) * scales} | guidance
    sampler = BitSampler([seed], 0.97)
    logits: list[Tensor] = []

    def choose(scale: int, values: Tensor) -> Tensor:
        logits.append(values.clone())
        return sampler(scale, values)

    how = Guidance(**settings)
    with torch.inference_mode(), inside or nullcontext():
        condition = conditions(model, [features().to(model.pos_start.device)], None, how)
        return generate_codes(model, condition, schedule, False, how, choose), logits
