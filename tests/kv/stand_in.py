"""What several tests of the caches need: schedules, and a stand-in for a model's layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from scalekv.kv.budgets.asked import parse_budget, resolve
from scalekv.kv.budgets.budget import Budget
from scalekv.kv.budgets.heat_order import order_from_mass
from scalekv.kv.caches.caches import Caches
from scalekv.kv.calibration.profile import AttentionProfile
from scalekv.kv.policies.full import FullPolicy
from scalekv.kv.policies.heatkv import HeatKVPolicy
from scalekv.kv.policies.policy import Policy, Step
from scalekv.kv.policies.profiled import ProfiledPolicy
from scalekv.kv.policies.registry import policy_named
from scalekv.kv.schedule import Schedule

PORTRAIT = Schedule.parse("1x1 2x2 3x2 6x4 9x6")
SEVEN = Schedule.parse("1x1 2x2 4x4 6x6 8x8 12x12 16x16")
THIRTEEN = Schedule.parse("1x1 2x2 4x4 6x6 8x8 12x12 16x16 20x20 24x24 32x32 40x40 48x48 64x64")


def full_caches(layers: int = 2) -> Caches:
    """Caches that keep everything."""
    return Caches(layers, FullPolicy(), lambda schedule: None)


def percent(text: str, layers: int = 2) -> Callable[[Schedule], Budget]:
    """What makes the budget of a schedule, with layer 0 a drafter."""
    return lambda schedule: resolve(parse_budget(text), schedule, layers, [0])


def exact_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention with softmax scale 1; insists on what kernels want."""
    assert k.stride(-1) == v.stride(-1) == 1
    return F.scaled_dot_product_attention(q, k, v, scale=1.0)


@dataclass
class Inputs:
    """The q, k, v that layers of a made-up model would compute, the same for equal seeds."""

    layers: int = 2
    batch: int = 2
    heads: int = 2
    head_dim: int = 8
    dtype: torch.dtype = torch.float32
    seed: int = 0
    device: str = "cpu"
    _made: dict[tuple[int, int, int], tuple[Tensor, Tensor, Tensor]] = field(default_factory=dict)

    def at(self, layer: int, scale: int, tokens: int) -> tuple[Tensor, Tensor, Tensor]:
        key = (layer, scale, tokens)
        if key not in self._made:
            generator = torch.Generator().manual_seed(hash((self.seed, *key)) % 2**31)
            # (B, L, 3, H, D), then transposed: strided as q, k, v of a fused projection are.
            shape = (self.batch, tokens, 3, self.heads, self.head_dim)
            q, k, v = torch.randn(shape, generator=generator).permute(2, 0, 3, 1, 4)
            self._made[key] = (
                q.to(self.device, self.dtype),
                k.to(self.device, self.dtype),
                v.to(self.device, self.dtype),
            )
        return self._made[key]


def raw_queries(q: Tensor, tokens: Tensor) -> Tensor:
    """Other queries (B, H, W, D) of some tokens, from the true ones q (B, H, L, D)."""
    return q.index_select(2, tokens).flip(-1)


def policy_for(name: str, schedule: Schedule, layers: int, heads: int = 2) -> Policy:
    """A policy by name; one that needs a calibration gets a made-up one."""
    policy = policy_named(name)
    if isinstance(policy, ProfiledPolicy):
        return policy.calibrated(made_profile(len(schedule), layers, heads))
    if name != "heatkv":
        return policy
    generator = torch.Generator().manual_seed(5)
    mass = torch.rand(len(schedule) - 1, layers, heads, generator=generator).tolist()
    return HeatKVPolicy(order_from_mass(mass))


def made_profile(scales: int, layers: int, heads: int, seed: int = 7) -> AttentionProfile:
    """Of no model: heads differ in everything, and both kinds of heads are in every layer."""
    generator = torch.Generator().manual_seed(seed)

    def table() -> Any:
        return torch.rand(scales, layers, heads, generator=generator)

    def rows(x: Tensor) -> Any:
        return tuple(tuple(tuple(heads) for heads in row) for row in x.tolist())

    kinds = torch.where(torch.arange(heads) % 2 == 0, 1.0, 0.01)
    return AttentionProfile(
        rows(table()), rows(6 * table()), rows(kinds * (1 + table())), rows(table())
    )


Watch = Callable[[int, int], None]


def play(
    caches: Caches, schedule: Schedule, inputs: Inputs, watch: Watch = lambda scale, layer: None
) -> list[Tensor]:
    """One picture; returns every layer's output at every scale, calling `watch` after each."""
    outputs = []
    for scale, tokens in enumerate(schedule.tokens):
        for layer in range(inputs.layers):
            q, k, v = inputs.at(layer, scale, tokens)
            raw = partial(raw_queries, q)
            outputs.append(caches.attend(layer, scale, schedule, q, k, v, exact_attention, raw))
            watch(scale, layer)
    return outputs


def play_by_concatenation(schedule: Schedule, inputs: Inputs) -> list[Tensor]:
    """The same picture without any cache of ours."""
    held: dict[int, tuple[Tensor, Tensor]] = {}
    outputs = []
    for scale, tokens in enumerate(schedule.tokens):
        for layer in range(inputs.layers):
            q, k, v = inputs.at(layer, scale, tokens)
            if layer in held:
                k, v = (torch.cat(pair, dim=2) for pair in zip(held[layer], (k, v), strict=True))
            held[layer] = (k, v)
            outputs.append(exact_attention(q, k.contiguous(), v.contiguous()))
    return outputs


def step_of(
    schedule: Schedule,
    scale: int,
    capacity: int,
    *,
    dropped: float = 0.0,
    batch: int = 2,
    heads: int = 2,
    head_dim: int = 4,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Step:
    """A step with random tensors; `dropped` of the tokens before `scale` are gone already."""
    generator = torch.Generator().manual_seed(seed)
    new, before = schedule.tokens[scale], schedule.before(scale)
    positions = None
    tokens = before + new
    if dropped:
        held = max(before - int(dropped * before), min(before, 1))
        order = torch.rand(batch, heads, before, generator=generator).argsort(-1)[..., :held]
        newest = torch.arange(before, before + new).expand(batch, heads, new)
        positions = torch.cat((order.sort(-1).values, newest), 2).int()
        tokens = held + new
    q = 2 * torch.randn(batch, heads, new, head_dim, generator=generator)
    k, v = torch.randn(2, batch, heads, tokens, head_dim, generator=generator)
    q = q.to(dtype)
    return Step(
        scale=scale,
        layer=0,
        heads=tuple(range(heads)),
        schedule=schedule,
        capacity=capacity,
        window=16,
        q=q,
        k=k.to(dtype),
        v=v.to(dtype),
        positions=positions,
        raw_queries=partial(raw_queries, q),
    )


class Operations(TorchDispatchMode):
    """Records the name and the largest result of every tensor operation."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: list[str] = []
        self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.names.append(str(func))
        if isinstance(result, Tensor) and result._base is None:
            self.largest = max(self.largest, result.numel() * result.element_size())
        return result
