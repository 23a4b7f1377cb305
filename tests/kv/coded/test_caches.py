"""Coded caches as a model drives them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from scalekv.kv.budgets.asked import parse_budget, resolve
from scalekv.kv.budgets.budget import Budget
from scalekv.kv.caches.caches import Caches
from scalekv.kv.coded import held
from scalekv.kv.coded.constants import Constants
from scalekv.kv.coded.plan import allocation_of, bytes_asked, predicted_coded, table_bytes
from scalekv.kv.errors import UserError
from scalekv.kv.kernels.operator import Operator
from scalekv.kv.memory.predicted import CacheShape
from scalekv.kv.policies.coded import CodedPolicy
from scalekv.kv.schedule import Schedule
from tests.kv.coded.made import made_constants, smooth, turns_of
from tests.kv.stand_in import exact_attention

SCHEDULE = Schedule.parse("1x1 2x2 3x3 4x4 6x6 8x8")
known = lru_cache(made_constants)


def asked(text: str, layers: int = 2) -> Callable[[Schedule], Budget]:
    return lambda schedule: resolve(parse_budget(text), schedule, layers)


def caches_for(
    text: str, constants: Constants, guided: bool | None = True, kv_dtype: str = "auto"
) -> Caches:
    return Caches(
        constants.layers,
        CodedPolicy(constants),
        asked(text, constants.layers),
        guided=guided,
        kv_dtype=kv_dtype,
    )


def play(
    caches: Caches,
    schedule: Schedule = SCHEDULE,
    sequences: int = 2,
    heads: int = 2,
    dim: int = 8,
    seed: int = 0,
) -> list[Tensor]:
    """A picture whose maps are smooth; every layer's answers at every scale."""
    x = smooth(schedule, schedule.total, 2 * sequences, heads, dim, seed)
    turns = turns_of(schedule.total, dim)
    outputs = []
    for scale in range(len(schedule)):
        rows = slice(schedule.before(scale), schedule.before(scale + 1))
        for layer in range(len(caches.layers)):
            k, v = x[:, :, rows].split(sequences)
            outputs.append(
                caches.attend(
                    layer,
                    scale,
                    schedule,
                    k,
                    k,
                    v,
                    exact_attention,
                    turns=partial(turns.__getitem__, rows),
                )
            )
            assert caches.ledger is not None
            budget = caches.ledger.storage["budget_bytes"]
            assert caches.nbytes <= budget
    return outputs


@settings(deadline=None, max_examples=25)
@given(
    sides=st.lists(st.tuples(st.integers(1, 7), st.integers(1, 7)), min_size=2, max_size=6),
    layers=st.integers(1, 3),
    heads=st.integers(1, 2),
    dim=st.sampled_from([4, 8]),
    pictures=st.integers(1, 2),
    guided=st.booleans(),
    percent=st.integers(2, 100),
)
def test_held_bytes_are_those_predicted_and_within_the_budget(
    sides: list[tuple[int, int]],
    layers: int,
    heads: int,
    dim: int,
    pictures: int,
    guided: bool,
    percent: int,
) -> None:
    schedule = Schedule(tuple(sides))
    constants = known(layers, heads, dim, 4)
    sequences = pictures * (2 if guided else 1)
    shape = CacheShape(layers, sequences, heads, dim, 4, 4)
    assume(percent * schedule.history >= 100)
    budget = asked(f"{percent}%", layers)(schedule)
    try:
        allocation = allocation_of(constants, budget, shape, guided)
    except UserError:
        assume(False)
    caches = caches_for(f"{percent}%", constants, guided)
    play(caches, schedule, sequences, heads, dim)
    assert caches.ledger is not None
    ledger, predicted = caches.ledger.to_dict(), predicted_coded(allocation, shape)
    assert ledger["held_peak_bytes"] == predicted.held_peak_bytes <= bytes_asked(budget, shape)
    assert ledger["index_peak_bytes"] == predicted.index_peak_bytes == 0
    assert ledger["transient_peak_bytes"] == predicted.transient_peak_bytes
    assert [row["held_bytes"] for row in ledger["scales"]] == list(predicted.scale_bytes)
    assert ledger["coded"]["constants_bytes"] == constants.nbytes


def test_more_bytes_are_nearer_to_the_full_cache() -> None:
    constants = known()
    full = play(caches_for("100%", constants))
    errors = []
    for text in ("3%", "6%", "12%", "25%", "50%"):
        coded = play(caches_for(text, constants))
        errors.append(sum(float((a - b).square().mean()) for a, b in zip(full, coded, strict=True)))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[0] / 20


@settings(deadline=None, max_examples=15)
@given(
    sides=st.lists(st.tuples(st.integers(1, 7), st.integers(1, 7)), min_size=2, max_size=6),
    heads=st.integers(1, 2),
    dim=st.sampled_from([4, 8]),
    pictures=st.integers(1, 2),
    guided=st.booleans(),
    percent=st.integers(2, 100),
)
def test_nothing_outlives_a_picture_and_pictures_in_a_row_are_as_alone(
    sides: list[tuple[int, int]],
    heads: int,
    dim: int,
    pictures: int,
    guided: bool,
    percent: int,
) -> None:
    schedule = Schedule(tuple(sides))
    assume(percent * schedule.history >= 100)
    constants = known(2, heads, dim, 4)
    sequences = pictures * (2 if guided else 1)
    text = f"{percent}%"
    caches = caches_for(text, constants, guided)
    try:
        in_a_row = [play(caches, schedule, sequences, heads, dim, seed) for seed in (1, 2)]
    except UserError as refused:
        assume("no room" not in refused.what)
        raise
    for ours, seed in zip(in_a_row, (1, 2), strict=True):
        alone = play(caches_for(text, constants, guided), schedule, sequences, heads, dim, seed)
        assert all(torch.equal(a, b) for a, b in zip(ours, alone, strict=True))
    caches.release()
    assert (caches.nbytes, caches.index_nbytes, caches.transient_nbytes) == (0, 0, 0)
    assert all(cache.tokens == 0 and not cache.groups for cache in caches.layers)


def test_what_keeps_its_bits_is_not_coded_again() -> None:
    caches = caches_for("100%", known())
    play(caches)
    assert caches.ledger is not None
    assert caches.ledger.storage["first_coded_scale"] is None
    assert caches.nbytes == caches.ledger.full_bytes


@pytest.mark.parametrize(
    ("text", "expected"), [("10%", 0.1), ("7", 7 / SCHEDULE.history), ("5000B", None)]
)
def test_a_budget_stands_for_the_bytes_it_would_of_tokens(
    text: str, expected: float | None
) -> None:
    shape = CacheShape(2, 2, 2, 8, 4, 4)
    budget = asked(text)(SCHEDULE) if expected else replace(asked("7")(SCHEDULE), nbytes=5000)
    whole = shape.bytes_of(SCHEDULE.history)
    assert bytes_asked(budget, shape) == (int(expected * whole + 1e-6) if expected else 5000)


def test_what_cannot_be_is_refused() -> None:
    constants = known()
    with pytest.raises(UserError, match="pairs of guidance halves"):
        play(caches_for("10%", constants, guided=None))
    with pytest.raises(UserError, match="no pairs of guidance halves"):
        play(caches_for("10%", constants), sequences=3)
    with pytest.raises(UserError, match="in a way of its own"):
        caches_for("10%", constants, kv_dtype="int8")
    with pytest.raises(UserError, match="constants for 2 layers of 2 heads of 8 channels"):
        play(caches_for("10%", constants), heads=1)
    tiny = replace(asked("1")(SCHEDULE), nbytes=100)
    with pytest.raises(UserError, match="no room"):
        play(Caches(2, CodedPolicy(constants), lambda _: tiny, guided=True))
    with pytest.raises(UserError, match="needs constants"):
        play(Caches(2, CodedPolicy(), asked("10%"), guided=True))


@pytest.fixture
def as_on_cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What kernels are called for is computed by the formulas beside them."""
    monkeypatch.setattr(held, "by_kernels", lambda device: True)
    monkeypatch.setattr(Operator, "__call__", lambda operator, *args: operator.plain(*args))
    held.codec_of.cache_clear()
    yield
    held.codec_of.cache_clear()


def tables(constants: Constants, guided: bool) -> int:
    """Bytes of the tables that codecs keep."""
    codecs: list[Any] = [
        held.codec_of(constants, layer, guided, torch.device("cpu"))
        for layer in range(constants.layers)
    ]
    kept = [getattr(x, "_quantisers", None) or x._layouts for x in codecs]
    return sum(layer.nbytes for layer in kept)


@pytest.mark.parametrize("guided", [True, False])
def test_kernels_hold_and_answer_what_torch_does(
    guided: bool, request: pytest.FixtureRequest
) -> None:
    shape = CacheShape(2, 2, 2, 8, 4, 4)
    ledgers, outputs = [], []
    for by_kernels in (False, True):
        if by_kernels:
            request.getfixturevalue("as_on_cuda")
        constants = made_constants()
        caches = caches_for("10%", constants, guided)
        outputs.append(play(caches))
        assert caches.ledger is not None
        ledgers.append(caches.ledger.to_dict())
        allocation = allocation_of(constants, asked("10%")(SCHEDULE), shape, guided)
        expected = table_bytes(constants, allocation, by_kernels)
        assert 0.9 * expected <= tables(constants, guided) <= expected
    assert ledgers[0] == ledgers[1]
    for plain, ours in zip(*outputs, strict=True):
        assert float((ours - plain).square().mean()) < 1e-3 * float(plain.square().mean())


@pytest.mark.parametrize("text", ["10%", "60%"], ids=["coded", "raw"])
@pytest.mark.parametrize("by_kernels", [False, True])
def test_the_conditional_half_goes_on_alone(
    text: str, by_kernels: bool, request: pytest.FixtureRequest
) -> None:
    """Late guidance: from some scale on there is no unconditional half."""
    if by_kernels:
        request.getfixturevalue("as_on_cuda")
    constants, late = known(), 4
    x = smooth(SCHEDULE, SCHEDULE.total, 4, 2, 8)
    turns = turns_of(SCHEDULE.total, 8)
    caches, full = caches_for(text, constants), caches_for("100%", constants)
    for cache in (caches, full):
        for scale in range(len(SCHEDULE)):
            count = 2 if scale < late else 1
            rows = slice(SCHEDULE.before(scale), SCHEDULE.before(scale + 1))
            if scale == late:
                for layer in range(2):
                    cache.keep_sequences(layer, 1)
                assert cache.ledger is not None
                assert cache.nbytes <= cache.ledger.storage["budget_bytes"] // 2
            for layer in range(2):
                k, v = (half[:count] for half in x[:, :, rows].split(2))
                turned = partial(turns.__getitem__, rows)
                out = cache.attend(layer, scale, SCHEDULE, k, k, v, exact_attention, turns=turned)
        if cache is caches:
            ours = out
    assert ours.shape == out.shape
    assert float((ours - out).square().mean()) < 0.05 * float(out.square().mean())
