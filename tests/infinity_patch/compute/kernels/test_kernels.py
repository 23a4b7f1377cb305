"""Every kernel of a block against its plain formula, on odd shapes."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scalekv.infinity_patch.compute.kernels import (
    bias_and_gain,
    norm,
    queries_keys,
    residual,
    rows_in_fp8,
)
from tests.kv.kernels.both import (
    DEVICE,
    EXACT,
    HALF,
    assert_as_plain,
    counted,
    normal,
    token_major,
)

seeds = st.integers(0, 1 << 20)
dtypes = st.sampled_from([EXACT, HALF])
lengths = st.integers(1, 9)
widths = st.integers(1, 28).map(lambda heads: 64 * heads)


@settings(max_examples=10)
@given(seeds, dtypes, lengths, widths, st.booleans())
def test_norm(seed: int, dtype: torch.dtype, length: int, width: int, for_all: bool) -> None:
    x = 3 * normal(seed, 2, length + 2, width)[:, 1:-1] + 1
    shape = (width,) if for_all else (2, 1, width)
    factor, shift = 1 + normal(seed + 1, *shape) / 2, normal(seed + 2, *shape)
    arguments = (x, factor, shift, dtype)
    assert_as_plain(counted(norm._norm, *arguments), norm._plain(*arguments))


@settings(max_examples=10)
@given(seeds, dtypes, lengths, widths, st.booleans(), st.booleans())
def test_residual_and_norm(
    seed: int, dtype: torch.dtype, length: int, width: int, with_gain: bool, for_all: bool
) -> None:
    ours, h = normal(seed, 2, length, width), normal(seed + 3, 2, length, width, dtype=dtype)
    gain = normal(seed + 4, 2, 1, width) if with_gain else None
    shape = (width,) if for_all else (2, 1, width)
    factor, shift = 1 + normal(seed + 1, *shape) / 2, normal(seed + 2, *shape)
    plain = ours.clone()
    answer = counted(residual._add_norm, ours, h, gain, factor, shift, dtype)
    assert_as_plain(answer, residual._plain(plain, h, gain, factor, shift, dtype))
    assert_as_plain(ours, plain)


@settings(max_examples=10)
@given(seeds, dtypes, lengths, widths)
def test_rows_in_fp8(seed: int, dtype: torch.dtype, length: int, width: int) -> None:
    x = 3 * normal(seed, length, width, dtype=dtype)
    x[0] = 0
    rows, scale = counted(rows_in_fp8._rows_in_fp8, x)
    plain, plain_scale = rows_in_fp8._plain(x)
    assert_as_plain(scale, plain_scale)
    assert rows.dtype == plain.dtype
    # Triton's interpreter halves what rounds up to a power of two, and rounds halves upwards
    told = plain.float().abs().log2() % 1 != 0
    away = (rows.float() - plain.float()).abs()[told]
    assert bool((away <= plain.float().abs()[told] / 8 + 2.0**-9).all())
    assert float((away > 0).float().mean()) < 0.05


@settings(max_examples=10)
@given(seeds, dtypes, lengths, st.integers(4, 28), st.sampled_from([64, 104, 128]), st.booleans())
def test_queries_keys_and_values_are_placed(
    seed: int, dtype: torch.dtype, length: int, heads: int, dim: int, by_token: bool
) -> None:
    qkv = normal(seed, 2, length, 3, heads, dim, dtype=dtype)
    qkv[0, 0, 1] = 0  # a key without a direction
    gain = torch.ones(2, heads, 1, device=DEVICE)
    gain[0] = 1 + 9 * normal(seed + 1, heads, 1).abs()
    angles = 6 * normal(seed + 2, length, 1, dim // 2)
    turns = torch.polar(torch.ones_like(angles), angles)

    def empty() -> list[torch.Tensor]:
        if by_token:
            room = token_major(2, heads, length + 3, dim, dtype)
            return [
                torch.zeros(2, heads, length, dim, dtype=dtype, device=DEVICE),
                *(room.clone()[:, :, 2 : 2 + length] for _ in range(2)),
            ]
        return [torch.zeros(2, heads, length, dim, dtype=dtype, device=DEVICE) for _ in range(3)]

    ours, plain = empty(), empty()
    counted(queries_keys._place, qkv, gain, turns, *ours)
    queries_keys._plain(qkv, gain, turns, *plain)
    for one, other in zip(ours, plain, strict=True):
        assert_as_plain(one, other)
    assert torch.equal(ours[2], qkv[:, :, 2].transpose(1, 2))


@settings(max_examples=6)
@given(seeds, dtypes, st.integers(4, 28), st.sampled_from([64, 104, 128]))
def test_bias_and_gain(seed: int, dtype: torch.dtype, heads: int, dim: int) -> None:
    q_bias, v_bias = normal(seed, 2, heads * dim, dtype=dtype)
    scales = normal(seed + 1, 1, heads, 1, 1, dtype=dtype) * 3 + 3
    ours = counted(bias_and_gain._bias_and_gain, q_bias, v_bias, scales)
    plain = bias_and_gain._plain(q_bias, v_bias, scales)
    for one, other in zip(ours, plain, strict=True):
        assert_as_plain(one, other)
