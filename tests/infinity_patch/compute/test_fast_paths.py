"""What runs faster gives what the plain formula gives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from scalekv.infinity_patch.compute import processor
from scalekv.infinity_patch.compute.products import linear
from scalekv.infinity_patch.compute.tiled_attention import _tile, tiled_attention, worthwhile
from scalekv.infinity_patch.model import attention
from scalekv.infinity_patch.model.attention import attend, queries_keys_values
from scalekv.infinity_patch.model.rotary import rotary_tables, turns_of_scale
from scalekv.infinity_patch.model.transformer import modulated_norm
from tests.infinity_patch.small import SHORT, SPEC, run, small_model

HALF = torch.bfloat16


def away(x: torch.Tensor, exact: torch.Tensor) -> float:
    """Distance from the exact answer as a share of its norm."""
    return float((x.double() - exact).norm() / exact.norm())


@pytest.mark.parametrize("gain", [2.0, 10.0, 40.0])
@pytest.mark.parametrize("length", [32, 77, 600])
def test_tiled_attention_is_nearly_as_exact_as_the_fused(gain: float, length: int) -> None:
    torch.manual_seed(length)
    q = (F.normalize(torch.randn(2, 3, length, 64), dim=-1) * gain).to(HALF)
    k = F.normalize(torch.randn(2, 3, length + 57, 64), dim=-1).to(HALF)
    v = torch.randn(2, 3, length + 57, 64).to(HALF)
    exact = F.scaled_dot_product_attention(q.double(), k.double(), v.double(), scale=1.0)
    fused = F.scaled_dot_product_attention(q, k, v, scale=1.0)
    tiled = tiled_attention(q, k, v)
    assert tiled.shape == fused.shape
    assert away(tiled, exact) < max(2.5 * away(fused, exact), 0.004)


def test_large_logits_do_not_overflow() -> None:
    q = torch.full((1, 1, 32, 64), 12.5).to(HALF)  # of length 100, the longest a head may learn
    k = F.normalize(torch.ones(1, 1, 5, 64), dim=-1).to(HALF)
    v = torch.arange(5.0).view(1, 1, 5, 1).expand(1, 1, 5, 64).to(HALF)
    assert torch.allclose(tiled_attention(q, k, v).float(), torch.tensor(2.0))


@pytest.mark.parametrize("gain", [10.0, 40.0, 100.0])
def test_large_logits_that_no_sample_shows_are_found(gain: float) -> None:
    torch.manual_seed(0)
    towards = F.normalize(torch.randn(64), dim=0)
    q = (towards * gain).expand(1, 1, 32, 64).to(HALF)
    k = F.normalize(torch.randn(1, 1, 700, 64) - 4 * towards, dim=-1)
    k[0, 0, [3, 401, 699]] = F.normalize(towards + torch.randn(3, 64) / 100, dim=-1)
    k, v = k.to(HALF), torch.randn(1, 1, 700, 64).to(HALF)
    exact = F.scaled_dot_product_attention(q.double(), k.double(), v.double(), scale=1.0)
    assert away(tiled_attention(q, k, v), exact) < 0.005


@pytest.mark.parametrize("threads", [1, 2, 64])
@pytest.mark.parametrize("shape", [(2, 1, 1), (32, 64, 121), (32, 4096, 10521), (56, 4096, 4300)])
def test_tiles_stay_within_their_memory(
    shape: tuple[int, int, int], threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    together, length, tokens = shape
    group, rows = _tile(together, length, tokens)
    assert 1 <= group <= together
    assert 1 <= rows <= length
    assert group * rows * tokens <= 2**21 * threads


def test_attention_is_tiled_only_where_the_fused_kernel_is_slow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    q, k, v = (torch.randn(1, 2, 40, 64).to(HALF) for _ in range(3))
    fused = F.scaled_dot_product_attention(q, k, v, scale=1.0)
    monkeypatch.setattr(attention, "fused_attention_is_fast", lambda: True)
    assert torch.equal(attend(q, k, v), fused)
    monkeypatch.setattr(attention, "fused_attention_is_fast", lambda: False)
    assert torch.equal(attend(q, k, v), tiled_attention(q, k, v))
    assert not worthwhile(q.float())
    assert not worthwhile(q[:, :, :8])


@pytest.mark.parametrize(
    ("flags", "fast", "fused"),
    [({"avx2"}, False, True), ({"avx512_bf16"}, True, False), ({"amx_bf16"}, True, True)],
)
def test_what_processors_are_good_at(
    flags: set[str], fast: bool, fused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processor, "features", lambda: frozenset(flags))
    assert processor.fast_bf16() == fast
    assert processor.fused_attention_is_fast() == fused


@pytest.mark.parametrize("dtype", [torch.float32, HALF])
@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
def test_linear_is_the_linear_layer(dtype: torch.dtype, gelu: bool, with_bias: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 9, 64)[:, 2:7]  # rows that do not lie together
    weight = torch.randn(96, 64).to(dtype)
    bias = torch.randn(96).to(dtype) if with_bias else None
    exact = F.linear(x.to(dtype).double(), weight.double(), None if bias is None else bias.double())
    if gelu:
        exact = F.gelu(exact, approximate="tanh")
    with torch.no_grad():
        out = linear(x, weight, bias, gelu=gelu)
    with_grad = linear(x, weight, bias, gelu=gelu)
    assert out.dtype == dtype
    assert out.shape == (2, 5, 96)
    for answer in (out, with_grad):
        assert away(answer, exact) < (1e-6 if dtype == torch.float32 else 5e-3)


@pytest.mark.parametrize("dtype", [torch.float32, HALF])
def test_both_ways_to_queries_and_keys_agree(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processor, "ROWS", 20)
    sa = small_model(dtype).blocks[1].sa
    scales = [(1, h, w) for h, w in SHORT.scales]
    tables = rotary_tables(SHORT.scales, (64, 64), SPEC.head_dim)
    tokens = SHORT.tokens[-1]
    x = torch.randn(2, tokens, SPEC.width)
    trained = queries_keys_values(sa, x, scales, tables, len(SHORT) - 1)
    with torch.no_grad():
        fast = queries_keys_values(sa, x, scales, tables, len(SHORT) - 1)
    for a, b in zip(trained, fast, strict=True):
        assert b.stride(-1) == 1
        torch.testing.assert_close(a, b, rtol=1e-5 if dtype == torch.float32 else 1e-2, atol=1e-5)


def test_turns_follow_scale_and_table() -> None:
    scales = [(1, h, w) for h, w in SHORT.scales]
    tables = rotary_tables(SHORT.scales, (64, 64), 16)
    other = rotary_tables(SHORT.scales, (32, 32), 16)
    for scale in (3, 4, 3):
        here, found = (turns_of_scale(t, scales, scale) for t in (tables, other))
        assert here.shape == (SHORT.tokens[scale], 1, 8)
        assert turns_of_scale(tables, scales, scale).data_ptr() == here.data_ptr()  # made once
        assert not torch.equal(here, found)
        torch.testing.assert_close(here.abs(), torch.ones(here.shape))


def test_changed_parameters_are_noticed() -> None:
    model = small_model()
    _, before = run(model)
    for block in model.blocks:
        block.sa.q_bias.add_(1)
        block.sa.scale_mul_1H11.add_(0.5)
    _, after = run(model)
    fresh = small_model()
    fresh.load_state_dict(model.state_dict())
    _, expected = run(fresh)
    assert not torch.equal(before[-1], after[-1])
    assert all(torch.equal(a, b) for a, b in zip(after, expected, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, HALF])
def test_rows_at_a_time_change_nothing_but_rounding(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small_model(dtype)
    _, whole = run(model)
    monkeypatch.setattr(processor, "ROWS", 48)
    _, parts = run(model)
    torch.testing.assert_close(
        whole[3], parts[3], rtol=1e-3, atol=1e-4 if dtype == torch.float32 else 0.1
    )


def test_norm_and_modulation_in_one_pass() -> None:
    x, factor, shift = torch.randn(3, 7, 32), torch.randn(3, 1, 32), torch.randn(3, 1, 32)
    arguments: Any = (x, factor, shift, torch.float32)
    plain = modulated_norm(*arguments)
    with torch.no_grad():
        fused = modulated_norm(*arguments)
    torch.testing.assert_close(plain, fused)
