"""The one door to linear layers: what was done to a layer counts, patched or not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from scalekv.infinity_patch.compute.products import apply, is_plain
from scalekv.infinity_patch.generation.patch import patched
from scalekv.infinity_patch.model.transformer import Infinity
from tests.infinity_patch.small import SPEC, run, small_model

WIDTH = 16


class Adapter(nn.Module):
    """A low-rank adapter around a layer, whose weight it shows as its own, as peft's do."""

    def __init__(self, base: nn.Linear, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.base_layer = base
        self.down = nn.Parameter(torch.randn(2, base.in_features, generator=generator) / 8, False)
        self.up = nn.Parameter(torch.randn(base.out_features, 2, generator=generator) / 8, False)

    @property
    def weight(self) -> Tensor:
        return self.base_layer.weight

    @property
    def bias(self) -> Tensor | None:
        return self.base_layer.bias

    def forward(self, x: Tensor) -> Tensor:
        added = x.to(self.down.dtype) @ self.down.T @ self.up.T
        answer: Tensor = self.base_layer(x)
        return answer + added.to(answer.dtype)

    def merged(self) -> nn.Linear:
        """A plain layer that computes the same."""
        bias = self.base_layer.bias
        layer = nn.Linear(self.weight.shape[1], self.weight.shape[0], bias=bias is not None)
        layer.weight = nn.Parameter(
            self.weight + (self.up @ self.down).to(self.weight.dtype), False
        )
        if bias is not None:
            layer.bias = nn.Parameter(bias.detach(), False)
        return layer


class Int8Linear(nn.Module):
    """A layer whose weights are whole numbers with a scale an output, as weight-only kinds are."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        scale = base.weight.abs().amax(1, keepdim=True) / 127
        self.register_buffer("weight", (base.weight / scale).round().to(torch.int8))
        self.register_buffer("scale", scale)
        self.bias = base.bias

    def forward(self, x: Tensor) -> Tensor:
        buffers = dict(self.named_buffers())
        return F.linear(x, buffers["weight"].to(x.dtype) * buffers["scale"].to(x.dtype), self.bias)


class Tripled(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 3 * super().forward(x)


class Zeroed(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return torch.zeros_like(weight)


def offloaded(layer: nn.Linear) -> nn.Module:
    """As accelerate does it: weights elsewhere, fetched by a forward written over the layer's."""
    kept = layer.weight.detach().clone()
    layer.weight = nn.Parameter(torch.empty_like(kept, device="meta"), False)
    layer.__dict__["forward"] = lambda x: F.linear(x, kept, layer.bias)
    return layer


def hooked(layer: nn.Linear) -> nn.Module:
    layer.register_forward_hook(lambda _, __, out: 2 * out)
    return layer


def pre_hooked(layer: nn.Linear) -> nn.Module:
    layer.register_forward_pre_hook(lambda _, args: (2 * args[0],))
    return layer


def parametrized(layer: nn.Linear) -> nn.Module:
    parametrize.register_parametrization(layer, "weight", Zeroed())
    return layer


def tripled(layer: nn.Linear) -> nn.Module:
    changed = Tripled(layer.in_features, layer.out_features)
    changed.load_state_dict(layer.state_dict())
    return changed


CHANGED: dict[str, Callable[[nn.Linear], nn.Module]] = {
    "adapter": Adapter,
    "int8": Int8Linear,
    "offloaded": offloaded,
    "hook": hooked,
    "pre-hook": pre_hooked,
    "parametrized": parametrized,
    "subclass": tripled,
}


@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("name", CHANGED)
def test_what_is_no_plain_layer_is_called(name: str, gelu: bool) -> None:
    torch.manual_seed(0)
    layer = CHANGED[name](nn.Linear(WIDTH, 24).requires_grad_(False))
    x = torch.randn(2, 3, WIDTH)
    with torch.no_grad():
        wanted = layer(x)
        assert not is_plain(layer)
        out = apply(layer, x, gelu=gelu)
        assert torch.equal(out, F.gelu(wanted, approximate="tanh") if gelu else wanted)
        assert torch.equal(apply(layer, x, first=8), wanted[..., :8])
        assert apply(layer, x, torch.bfloat16).dtype == torch.bfloat16


@torch.no_grad()
def test_a_plain_layer_takes_the_fast_way_again_when_its_hook_is_gone() -> None:
    layer = nn.Linear(WIDTH, WIDTH)
    handle = layer.register_forward_hook(lambda *_: None)
    assert not is_plain(layer)
    handle.remove()
    assert is_plain(layer)
    everywhere = nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        assert not is_plain(layer)
    finally:
        everywhere.remove()
    assert is_plain(layer)


@torch.no_grad()
@pytest.mark.parametrize("changed", [False, True])
def test_a_bias_from_elsewhere_and_fewer_outputs(changed: bool) -> None:
    torch.manual_seed(0)
    plain = nn.Linear(WIDTH, 24, bias=False)
    bias, x = torch.randn(24), torch.randn(2, 3, WIDTH)
    wanted = F.linear(x, plain.weight, bias)
    if changed:
        plain.register_forward_hook(lambda *_: None)
    assert torch.allclose(apply(plain, x, bias=bias), wanted, atol=1e-6)
    assert torch.allclose(apply(plain, x, bias=bias, first=8), wanted[..., :8], atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("changed", [False, True])
def test_the_dtype_asked_for_is_what_comes_under_autocast_too(changed: bool) -> None:
    layer = nn.Linear(WIDTH, WIDTH)
    if changed:
        layer.register_forward_hook(lambda *_: None)
    with torch.autocast("cpu", torch.bfloat16):
        assert apply(layer, torch.randn(2, WIDTH), torch.float32).dtype == torch.float32


LAYERS = sorted(n for n, m in small_model().named_modules() if isinstance(m, nn.Linear))
ONE_OF_EACH = [n for n in LAYERS if ".0.module.0." in n or "block_chunks" not in n]


def replace(model: nn.Module, name: str, make: Callable[[Any], nn.Module]) -> nn.Module:
    """Puts another module where the one of this name is; returns the new one."""
    parent, _, last = name.rpartition(".")
    owner: Any = model.get_submodule(parent)
    new = make(model.get_submodule(name))
    setattr(owner, last, new) if not last.isdecimal() else owner.__setitem__(int(last), new)
    return new


def logits_of(model: Infinity, policy: str | None) -> list[Tensor]:
    return run(model, inside=None if policy is None else patched(model, policy, "50%"))[1]


@pytest.mark.parametrize("policy", [None, "scalekv"])
@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_an_adapter_on_any_layer_counts(name: str, policy: str | None) -> None:
    with_adapter, merged, plain = small_model(), small_model(), small_model()
    replace(with_adapter, name, Adapter)
    replace(merged, name, lambda layer: Adapter(layer).merged())
    adapted, wanted, before = (logits_of(m, policy)[1] for m in (with_adapter, merged, plain))
    assert torch.allclose(adapted, wanted, atol=1e-3)
    assert not torch.allclose(adapted, before, atol=1e-2)


@pytest.mark.parametrize("policy", [None, "full", "scalekv"])
def test_a_hook_is_called_once_a_scale_or_once_a_picture(policy: str | None) -> None:
    model = small_model()
    calls: dict[str, int] = {}
    for name in ONE_OF_EACH:

        def count(*_: object, name: str = name) -> None:
            calls[name] = calls.get(name, 0) + 1

        model.get_submodule(name).register_forward_hook(count)
    scales = len(logits_of(model, policy))
    of_blocks = ("sa.mat_qkv", "sa.proj", "ca.mat_q", "ca.proj", "ffn.fc1", "ffn.fc2")
    for name in ONE_OF_EACH:
        wanted = scales if name.endswith(of_blocks) and "block_chunks" in name else 1
        wanted = {"head": scales, "word_embed": scales - 1}.get(name, wanted)
        assert calls[name] == wanted, name


def test_hooks_that_change_nothing_change_no_bit_but_of_the_fused_gelu() -> None:
    model, watched = small_model(), small_model()
    for name in LAYERS:
        watched.get_submodule(name).register_forward_hook(lambda *_: None)
    plain, hooks = logits_of(model, "full"), logits_of(watched, "full")
    assert torch.allclose(plain[0], hooks[0], atol=1e-3)


def test_every_linear_layer_of_a_picture_goes_through_the_door() -> None:
    """A layer that does not reads a weight that is on the meta device, and fails."""
    model = small_model()
    for name in LAYERS:
        replace(model, name, offloaded)
    assert torch.allclose(
        logits_of(model, "full")[0], logits_of(small_model(), "full")[0], atol=1e-3
    )
    assert len(LAYERS) == len(ONE_OF_EACH) + (SPEC.depth - 1) * 7
