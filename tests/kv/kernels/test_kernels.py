"""Every kernel of the caches against its plain formula, on odd shapes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scalekv.kv.kernels import best, gather, mass, pooling
from scalekv.kv.schedule import Schedule
from tests.kv.kernels.both import (
    DEVICE,
    EXACT,
    HALF,
    assert_as_plain,
    counted,
    normal,
    token_major,
)

MAPS = Schedule.parse("1x1 2x3 5x2 4x7")
seeds = st.integers(0, 1 << 20)
dtypes = st.sampled_from([EXACT, HALF])
heads = st.integers(4, 28)
dims = st.sampled_from([64, 128])


@settings(max_examples=6)
@given(seeds, dtypes, heads, dims, st.integers(1, 70), st.integers(1, 40), st.booleans())
def test_chosen_tokens_are_copied(
    seed: int,
    dtype: torch.dtype,
    heads: int,
    dim: int,
    tokens: int,
    most: int,
    as_they_lie: bool,
) -> None:
    count = min(tokens, most)
    kv = normal(seed, 2, 1, tokens, heads, dim, dtype=dtype).transpose(2, 3)
    scores = normal(seed + 1, 1, heads, tokens)
    slots = scores.argsort(-1)[..., :count].sort(-1).values
    kind = dtype if as_they_lie else HALF
    ours, plain = torch.zeros(2, 2, 1, count, heads, dim, dtype=kind, device=DEVICE).transpose(3, 4)
    counted(gather._gather, kv, slots, ours)
    gather._plain(kv, slots, plain)
    index = slots[..., None].expand(-1, -1, -1, dim)
    assert torch.equal(plain[1], kv[1].gather(2, index).to(kind))
    assert_as_plain(ours, plain)
    assert kind != dtype or torch.equal(ours, plain)


@settings(max_examples=6)
@given(
    seeds,
    dtypes,
    heads,
    dims,
    st.integers(1, 90),
    st.integers(1, 40),
    st.booleans(),
    st.floats(1, 8),
)
def test_attention_mass(
    seed: int,
    dtype: torch.dtype,
    heads: int,
    dim: int,
    tokens: int,
    observers: int,
    chosen: bool,
    gain: float,
) -> None:
    q = normal(seed, 1, observers, heads, dim, dtype=dtype).transpose(1, 2) * (gain / dim**0.5)
    k = token_major(1, heads, tokens, dim, dtype).copy_(normal(seed + 1, 1, heads, tokens, dim))
    part = torch.arange(0, observers, 3, device=DEVICE) if chosen else None
    ours = counted(mass._attention_mass, q, k, part)
    assert_as_plain(ours, mass._plain_mass(q, k, part))
    total = float(len(part) if part is not None else observers)
    assert torch.allclose(ours.sum(-1), torch.tensor(total, device=DEVICE), rtol=1e-5)


@settings(max_examples=6)
@given(seeds, dtypes, heads, dims, st.integers(1, 150))
def test_logits_of_one_query(
    seed: int, dtype: torch.dtype, heads: int, dim: int, tokens: int
) -> None:
    query = normal(seed, 1, heads, 1, dim) / dim**0.5
    k = normal(seed + 1, 1, tokens, heads, dim, dtype=dtype).transpose(1, 2)
    assert_as_plain(counted(mass._query_logits, query, k), mass._plain_logits(query, k))


@settings(max_examples=6)
@given(seeds, st.integers(1, 5), st.integers(1, 4), st.floats(0, 1), st.sampled_from([1, 3, 5]))
def test_pooling_on_maps(seed: int, heads: int, scales: int, share: float, kernel: int) -> None:
    tokens = MAPS.before(scales)
    sides = [side for scale in MAPS.scales[:scales] for side in scale]
    held = max(1, round(share * tokens))
    places = normal(seed, 2, heads, tokens).argsort(-1)[..., :held].sort(-1).values.int()
    for positions in (None, places) if held == tokens else (places,):
        scores = normal(seed + 1, 2, heads, held).abs()
        ours = counted(pooling._pooled_on_maps, scores, positions, sides, kernel)
        assert_as_plain(ours, pooling._plain(scores, positions, sides, kernel))


@settings(max_examples=15)
@given(
    seeds,
    st.integers(1, 300),
    st.floats(0, 1),
    st.sampled_from(["normal", "few values", "signed zeros", "infinite", "no numbers"]),
)
def test_best_slots(seed: int, tokens: int, share: float, kind: str) -> None:
    count = max(1, round(share * tokens))
    scores = normal(seed, 1, 5, tokens)
    if kind == "few values":
        scores = scores.round()
    elif kind == "signed zeros":
        scores = torch.where(scores > 0, 0.0, -0.0)
    elif kind == "infinite":
        scores[..., ::3] = float("inf")
        scores[..., 1::3] = -float("inf")
    elif kind == "no numbers":
        scores[..., ::4] = float("nan")
    ours = counted(best._best_slots, scores, count)
    assert torch.equal(ours, best._plain(scores, count))


def test_rows_too_long_for_registers_are_sorted() -> None:
    scores = normal(0, 1, 1, best.LONGEST + 1)
    assert torch.equal(best._fused(scores, 40), best._plain(scores, 40))


@pytest.mark.parametrize("dtype", [torch.int64, torch.float64])
def test_scores_of_other_kinds_are_sorted(dtype: torch.dtype) -> None:
    scores = (100 * normal(0, 1, 2, 50)).to(dtype)
    assert torch.equal(best._fused(scores, 7), best._plain(scores, 7))


def test_every_kernel_compiles_for_a_device(tmp_path: Path) -> None:
    """The interpreter takes what the compiler does not; the compiler needs no device."""
    kept = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.kv.kernels.compiling"],
        env=kept | {"TRITON_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
