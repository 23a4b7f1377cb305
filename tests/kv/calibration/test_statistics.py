"""Attention statistics against the definition, and in bounded memory."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from scalekv.kv.budgets.asked import parse_budget, resolve
from scalekv.kv.budgets.budget import Budget
from scalekv.kv.caches.caches import Caches
from scalekv.kv.calibration.statistics import (
    CHUNK_BYTES,
    AttentionMeans,
    AttentionStatistics,
    LayerAttention,
    key_change,
    layer_attention,
)
from scalekv.kv.policies.full import FullPolicy
from scalekv.kv.policies.registry import policy_named
from scalekv.kv.schedule import Schedule
from tests.kv.stand_in import THIRTEEN, Inputs, Operations, play

SMALL = Schedule.parse("1x1 2x2 3x2 6x4")
TOP = 5


def by_definition(
    q: Tensor, k: Tensor, schedule: Schedule, scale: int, top: int
) -> dict[str, Tensor]:
    """One query at a time, in float64."""
    heads = q.shape[1]
    found = {name: torch.zeros(heads).double() for name in ("top", "focus", "entropy")}
    found["mass"] = torch.zeros(heads, scale + 1).double()
    found["variance"] = torch.zeros(heads).double()
    before = schedule.before(scale)
    for sequence in range(q.shape[0]):
        for head in range(heads):
            attention = (q[sequence, head].double() @ k[sequence, head].double().T).softmax(1)
            found["variance"][head] += len(attention) * attention.var(0, correction=0).sum()
            for query in q[sequence, head]:
                weights = (k[sequence, head].double() @ query.double()).softmax(0)
                for source in range(scale + 1):
                    span = slice(schedule.before(source), schedule.before(source + 1))
                    found["mass"][head, source] += weights[span].sum()
                largest = weights[:before].sort(descending=True).values[:top].sum()
                found["top"][head] += largest
                found["focus"][head] += largest / weights[:before].sum() if before else 0
                found["entropy"][head] -= (weights * weights.log2()).sum()
    return {name: value / (q.shape[0] * q.shape[2]) for name, value in found.items()}


def assert_same(found: LayerAttention, expected: dict[str, Tensor]) -> None:
    for name, value in expected.items():
        torch.testing.assert_close(getattr(found, name).double(), value, rtol=1e-5, atol=1e-6)


def call(scale: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    q = 2 * torch.randn(2, 3, SMALL.tokens[scale], 8, generator=generator)
    k = torch.randn(2, 3, SMALL.before(scale + 1), 8, generator=generator)
    return q.to(dtype), k.to(dtype)


@pytest.mark.parametrize("scale", range(4))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("top", [1, TOP, 1000])
def test_statistics_are_as_defined(scale: int, dtype: torch.dtype, top: int) -> None:
    q, k = call(scale, dtype)
    found = layer_attention(q, k, SMALL, scale, top)
    assert_same(found, by_definition(q, k, SMALL, scale, top))
    torch.testing.assert_close(found.mass.sum(1), torch.ones(3))


@pytest.mark.parametrize("chunk_bytes", [1, 4 * 3 * 35, 5 * 4 * 3 * 35, 10**9])
def test_chunks_change_nothing(chunk_bytes: int) -> None:
    q, k = call(3)
    whole = by_definition(q, k, SMALL, 3, TOP)
    assert_same(layer_attention(q, k, SMALL, 3, TOP, chunk_bytes), whole)


def test_attention_that_vanishes_on_earlier_scales_has_no_focus() -> None:
    q, k = torch.zeros(1, 1, 4, 2), torch.zeros(1, 1, 5, 2)
    q[..., 0] = 200
    k[..., 1:, 0] = 1  # the first scale's token is e^200 times fainter: 0 in float32
    found = layer_attention(q, k, SMALL, 1, TOP)
    assert found.mass.tolist() == [[0, 1]]
    assert (found.top.item(), found.focus.item()) == (0, 0)


def test_autocast_changes_nothing() -> None:
    q, k = call(3)
    with torch.autocast("cpu", torch.bfloat16):
        found = layer_attention(q, k, SMALL, 3, TOP)
    assert_same(found, by_definition(q, k, SMALL, 3, TOP))


def measured(*pictures: Inputs, conditional: bool = False) -> AttentionMeans:
    """Of pictures played through caches of two layers."""
    statistics = AttentionStatistics(SMALL, 2, TOP, halves=2, conditional=conditional)
    caches = Caches(2, FullPolicy(), lambda schedule: None)
    caches.observer = statistics
    for inputs in pictures:
        play(caches, SMALL, inputs)
    return statistics.means()


def test_means_of_pictures() -> None:
    first, second = Inputs(seed=1), Inputs(seed=2)
    both = measured(first, second)
    each = [measured(first), measured(second)]
    assert both.pictures == 2
    for name in ("mass", "entropy", "variance", "change"):
        mean = (getattr(each[0], name) + getattr(each[1], name)) / 2
        np.testing.assert_allclose(getattr(both, name), mean, rtol=1e-12)
    for name in ("own", "top", "focus"):
        apart = np.concatenate([getattr(one, name) for one in each])
        np.testing.assert_array_equal(getattr(both, name), apart)
    np.testing.assert_allclose(both.mass.sum(1), 1, rtol=1e-5)
    assert not both.mass[np.triu_indices(4, 1)].any()
    own = np.stack([both.mass[scale, scale] for scale in range(4)])
    np.testing.assert_allclose(both.own.mean(0), own, rtol=1e-12)


def test_how_keys_change_from_map_to_map() -> None:
    schedule = Schedule.parse("1x1 2x2 4x4")
    smooth = torch.ones(2, 3, 21, 8) * torch.randn(8, generator=torch.Generator().manual_seed(0))
    assert key_change(smooth[:, :, :5], schedule, 1).tolist() == pytest.approx([0] * 3, abs=1e-6)
    turned = smooth.clone()
    turned[:, 1, 5:] *= -1
    found = key_change(turned, schedule, 2)
    assert found.tolist() == pytest.approx([0, 2, 0], abs=1e-6)
    assert key_change(smooth[:, :, :1], schedule, 0).tolist() == [0] * 3


def test_every_layer_and_scale_has_its_place() -> None:
    inputs = Inputs()
    means = measured(inputs)
    for layer in range(2):
        for scale in range(4):
            q, _, _ = inputs.at(layer, scale, SMALL.tokens[scale])
            k = torch.cat([inputs.at(layer, s, SMALL.tokens[s])[1] for s in range(scale + 1)], 2)
            expected = by_definition(q, k, SMALL, scale, TOP)
            found = LayerAttention(
                torch.from_numpy(means.mass[scale, : scale + 1, layer].T.copy()),
                torch.from_numpy(means.top[0, scale, layer]),
                torch.from_numpy(means.focus[0, scale, layer]),
                torch.from_numpy(means.entropy[scale, layer]),
                torch.from_numpy(means.variance[scale, layer]),
                torch.from_numpy(means.change[scale, layer]),
            )
            assert_same(found, expected)


def test_the_conditional_half_comes_first() -> None:
    inputs = Inputs()
    alone = Inputs(_made={})
    for layer in range(2):
        for scale, tokens in enumerate(SMALL.tokens):
            q, k, v = inputs.at(layer, scale, tokens)
            alone._made[layer, scale, tokens] = (q[:1], k[:1], v[:1])
    half, first = measured(inputs, conditional=True), measured(alone)
    np.testing.assert_array_equal(half.mass, first.mass)
    assert not np.allclose(half.mass, measured(inputs).mass, rtol=1e-3)


def test_a_picture_broken_off_does_not_count() -> None:
    statistics = AttentionStatistics(SMALL, 2, TOP, halves=2, conditional=False)
    caches = Caches(2, FullPolicy(), lambda schedule: None)
    caches.observer = statistics

    class Stop(Exception):
        pass

    def stop(scale: int, layer: int) -> None:
        if (scale, layer) == (2, 0):
            raise Stop

    with pytest.raises(Stop):
        play(caches, SMALL, Inputs(seed=1), stop)
    play(caches, SMALL, Inputs(seed=2))
    means = statistics.means()
    assert means.pictures == 1
    np.testing.assert_array_equal(means.mass, measured(Inputs(seed=2)).mass)


def test_a_cache_that_dropped_tokens_cannot_be_measured() -> None:
    def budget(schedule: Schedule) -> Budget:
        return resolve(parse_budget("5"), schedule, 2)

    caches = Caches(2, policy_named("sliding-window"), budget)
    caches.observer = AttentionStatistics(SMALL, 2, TOP, halves=2, conditional=False)
    with pytest.raises(AssertionError, match="need the full cache"):
        play(caches, SMALL, Inputs())


class Live(Operations):
    """Counts the bytes of all results alive at once, besides the largest one."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = super().__torch_dispatch__(func, types, args, kwargs)
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if not isinstance(tensor, Tensor):
                continue
            place, size = tensor.untyped_storage().data_ptr(), tensor.untyped_storage().nbytes()
            if place in self._known or tensor._base is not None:
                continue
            self._known.add(place)
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(tensor, self._freed, place, size)
        return result

    def _freed(self, place: int, size: int) -> None:
        self._known.discard(place)
        self.now -= size


@pytest.mark.parametrize(("scale", "queries"), [(9, None), (12, 120)], ids=["0.25M", "1M"])
def test_memory_stays_bounded_at_full_size(scale: int, queries: int | None) -> None:
    """infinity-2b's last scale: 16 heads of 128, in bf16. At 1M only some of the queries, which
    is what a chunk sees of them."""
    heads, dim, tokens = 16, 128, THIRTEEN.before(scale + 1)
    count = THIRTEEN.tokens[scale] if queries is None else queries
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(1, heads, count, dim, generator=generator).bfloat16()
    k = torch.randn(1, heads, tokens, dim, generator=generator).bfloat16()
    with Live() as counted:
        found = layer_attention(q, k, THIRTEEN, scale, 16)
    torch.testing.assert_close(found.mass.sum(1), torch.ones(heads))
    keys = 4 * k.numel()
    assert counted.largest <= max(CHUNK_BYTES, keys)
    assert counted.peak > 2 * CHUNK_BYTES, "logits and weights at least are counted"
    assert counted.peak <= 3 * CHUNK_BYTES + keys + 2**21
    everything = 4 * heads * THIRTEEN.tokens[scale] * tokens
    assert everything > 4 * CHUNK_BYTES, "no test of chunks"
