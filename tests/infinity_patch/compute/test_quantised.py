"""Weights in 8 bits: what they stand for, at every door, and where fp8 is multiplied."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode

from scalekv.infinity_patch.compute import processor, scaled
from scalekv.infinity_patch.compute.kernels.rows_in_fp8 import rows_in_fp8
from scalekv.infinity_patch.compute.products import FEW_ROWS, apply, is_plain, weights_dtype
from scalekv.infinity_patch.compute.quantised import (
    KINDS,
    QuantisedLinear,
    WritingRoom,
    quantised,
)
from scalekv.infinity_patch.generation.patch import patched
from scalekv.infinity_patch.loading.reading import hold_in_8_bits
from scalekv.infinity_patch.model.transformer import Infinity
from scalekv.kv.policies.registry import policy_names
from tests.infinity_patch.small import ready, run, small_model

CPU = torch.device("cpu")
STEPS = {"int8": 0.5 / 127, "fp8": 2.0**-4}
"""The most a number of a row may be off: of the row's largest one, or of itself (3 bits)."""


def held(layer: nn.Linear, kind: str, dtype: torch.dtype) -> QuantisedLinear:
    """The layer with its weights in 8 bits."""
    made = QuantisedLinear(layer, KINDS[kind], dtype, WritingRoom())
    numbers, scale = quantised(layer.weight.detach(), KINDS[kind], CPU)
    made.weight = nn.Parameter(numbers, requires_grad=False)
    made.weight_scale = nn.Parameter(scale, requires_grad=False)
    if layer.bias is not None:
        made.bias = nn.Parameter(layer.bias.detach().to(dtype), requires_grad=False)
    return made


def model_in_8_bits(kind: str) -> tuple[Infinity, Infinity]:
    """A small model with its weights in 8 bits, and one whose float32 weights are what they stand
    for."""
    model, plain = small_model(), small_model()
    hold_in_8_bits(model, kind, torch.float32)
    for name, layer in model.named_modules():
        if isinstance(layer, QuantisedLinear):
            own = plain.get_submodule(name)
            assert isinstance(own.weight, Tensor)
            numbers, scale = quantised(own.weight, KINDS[kind], CPU)
            layer.weight = nn.Parameter(numbers, requires_grad=False)
            layer.weight_scale = nn.Parameter(scale, requires_grad=False)
            own.weight = nn.Parameter(numbers.float() * scale[:, None], requires_grad=False)
    return model.requires_grad_(False), plain.requires_grad_(False)


@pytest.mark.parametrize("kind", KINDS)
def test_every_number_is_the_nearest_there_is(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scalekv.infinity_patch.compute.quantised.PIECE", 4 * 300)
    weight = torch.randn(50, 300, generator=torch.Generator().manual_seed(0))
    weight[3], weight[4, 7] = 0, 1000
    numbers, scale = quantised(weight, KINDS[kind], CPU)
    largest = weight.abs().amax(1, keepdim=True)
    off = (numbers.float() * scale[:, None] - weight).abs()
    allowed = largest * STEPS[kind] if kind == "int8" else weight.abs() * STEPS[kind]
    assert (off <= allowed * 1.01 + largest * 1e-4).all()
    assert torch.equal(scale, scale.bfloat16().float())
    assert not numbers[3].float().any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_not_finite_stays_not_finite(kind: str, value: float) -> None:
    layer = nn.Linear(16, 8)
    with torch.no_grad():
        layer.weight[2, 5] = value
        out = apply(held(layer, kind, torch.float32), torch.ones(20, 16))
    assert not out[:, 2].isfinite().any()
    assert out[:, 3:].isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rows", [1, FEW_ROWS + 1])
def test_the_door_multiplies_by_what_they_stand_for(
    kind: str, dtype: torch.dtype, rows: int
) -> None:
    layer = held(nn.Linear(64, 48), kind, dtype)
    stand_for = layer.weight.float() * layer.weight_scale[:, None]
    x = torch.randn(1, rows, 64, generator=torch.Generator().manual_seed(1))
    exact = nn.functional.linear(x, stand_for, layer.bias.float())
    atol = 1e-5 if dtype is torch.float32 else 0.03
    with torch.inference_mode():
        out = apply(layer, x)
        assert (is_plain(layer), weights_dtype(layer), out.dtype) == (True, dtype, dtype)
        torch.testing.assert_close(out.float(), exact, rtol=0, atol=atol)
        torch.testing.assert_close(
            apply(layer, x, first=8).float(), exact[..., :8], rtol=0, atol=atol
        )
        torch.testing.assert_close(layer(x.to(dtype)).float(), exact, rtol=0, atol=atol)
        by_gelu = apply(layer, x, torch.float32, gelu=True)
        assert by_gelu.dtype is torch.float32
        gelu = nn.functional.gelu(exact, approximate="tanh")
        torch.testing.assert_close(by_gelu, gelu, rtol=0, atol=atol)


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_computes_with_them(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, plain = model_in_8_bits(kind)
    expected = run(plain)
    torch.testing.assert_close(run(model), expected, rtol=0, atol=1e-4)
    monkeypatch.setattr(processor, "ROWS", 8)  # written once, multiplied by in many pieces
    torch.testing.assert_close(run(model), expected, rtol=0, atol=1e-4)
    written = [m._written for m in model.modules() if isinstance(m, QuantisedLinear)]
    assert written == [None] * len(written)


@pytest.mark.parametrize("policy", policy_names())
def test_every_policy_works_with_them(policy: str) -> None:
    model, plain = model_in_8_bits("int8")
    budget = "full" if policy == "full" else "40%"
    codes = [
        run(one, inside=patched(one, ready(policy), budget, guided=True)) for one in (model, plain)
    ]
    torch.testing.assert_close(*codes, rtol=0, atol=1e-4)


def test_gradients_go_through_them() -> None:
    layer = held(nn.Linear(16, 8), "int8", torch.float32)
    x = torch.randn(12, 16, requires_grad=True)
    apply(layer, x).sum().backward()
    stand_for = layer.weight.float() * layer.weight_scale[:, None]
    torch.testing.assert_close(x.grad, stand_for.sum(0).expand(12, -1))


def test_rows_in_fp8() -> None:
    x = torch.randn(9, 40, generator=torch.Generator().manual_seed(2))
    x[4] = 0
    rows, scale = rows_in_fp8(x.bfloat16())
    assert (rows.dtype, scale.shape) == (torch.float8_e4m3fn, (9, 1))
    torch.testing.assert_close(rows.float() * scale, x, rtol=2.0**-4, atol=0.02)
    assert not rows[4].float().any()


@pytest.fixture
def able(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A CUDA device without memory that multiplies float8."""
    monkeypatch.setattr(scaled, "has_fp8_products", lambda device: device.type == "cuda")
    with FakeTensorMode(), torch.inference_mode():
        yield


@pytest.mark.usefixtures("able")
def test_fp8_is_multiplied_where_the_device_can() -> None:
    x = torch.empty(2, 40, 192, dtype=torch.bfloat16, device="cuda")
    weight = torch.empty(576, 192, dtype=torch.float8_e4m3fn, device="cuda")
    scale, bias = torch.empty(576, device="cuda"), torch.empty(576, device="cuda").bfloat16()
    assert scaled.multiplies_fp8(x, weight)
    out = scaled.scaled_linear(x, weight, scale, bias)
    assert (out.shape, out.dtype, out.device.type) == ((2, 40, 576), torch.bfloat16, "cuda")
    assert not scaled.multiplies_fp8(x, weight.to(torch.int8))
    assert not scaled.multiplies_fp8(x.float(), weight)
    narrow = torch.empty(576, 200, dtype=torch.float8_e4m3fn, device="cuda")
    assert not scaled.multiplies_fp8(x, narrow)
    assert not scaled.multiplies_fp8(torch.empty(2, 192).bfloat16(), weight)


def test_no_fp8_products_on_a_processor() -> None:
    assert not scaled.has_fp8_products(CPU)
