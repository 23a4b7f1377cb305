"""Guidance halves in whole numbers as middle and side, keys turned back."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from scalekv.kv.caches.caches import Caches
from scalekv.kv.halves import both_halves, middle_and_side, turned
from scalekv.kv.policies.full import FullPolicy
from scalekv.kv.schedule import Schedule
from tests.kv.coded.made import smooth, turns_of
from tests.kv.stand_in import exact_attention

SCHEDULE = Schedule.parse("1x1 2x2 4x4 6x6 8x8")
HEADS, DIM = 2, 8


def caches_for(kv_dtype: str, guided: bool | None) -> Caches:
    return Caches(2, FullPolicy(), lambda _: None, kv_dtype=kv_dtype, guided=guided)


def play(
    caches: Caches,
    schedule: Schedule = SCHEDULE,
    pictures: int = 1,
    late: int | None = None,
    seed: int = 0,
) -> list[Tensor]:
    """A picture, or several, whose halves are alike, and whose keys were turned; the answers. From
    scale `late` on there is no unconditional half."""
    shared = smooth(schedule, schedule.total, 2 * pictures, HEADS, DIM, seed)
    apart = 0.05 * smooth(schedule, schedule.total, 2 * pictures, HEADS, DIM, 50 + seed)
    turns = turns_of(schedule.total, DIM)
    outputs = []
    for scale in range(len(schedule)):
        rows = slice(schedule.before(scale), schedule.before(scale + 1))
        if scale == late:
            for layer in range(2):
                caches.keep_sequences(layer, pictures)
        for layer in range(2):
            (k_same, v_same), (k_far, v_far) = (
                x[:, :, rows].split(pictures) for x in (shared, apart)
            )
            k = turned(torch.cat((k_same + k_far, k_same - k_far)), turns[rows])
            v = torch.cat((v_same + v_far, v_same - v_far))
            if late is not None and scale >= late:
                k, v = k[:pictures], v[:pictures]
            turning = partial(turns.__getitem__, rows)
            outputs.append(
                caches.attend(layer, scale, schedule, k, k, v, exact_attention, turns=turning)
            )
    return outputs


def guided_error(kv_dtype: str, guided: bool | None, cfg: float = 3.0) -> float:
    """Mean squared error of what guidance makes of the two halves' answers."""
    error = 0.0
    exact, ours = (play(caches_for(*how)) for how in (("auto", None), (kv_dtype, guided)))
    for a, b in zip(exact, ours, strict=True):
        c, u = (a - b).chunk(2)
        error += float((cfg * c - (cfg - 1) * u).square().mean())
    return error


def test_signals_come_back() -> None:
    c, u = torch.randn((2, 3, 2, 5, 8), generator=torch.Generator().manual_seed(0))
    for dim in (0, 1):
        middle, side = middle_and_side(c, u, dim).unbind(dim)
        torch.testing.assert_close(both_halves(middle, side, dim), torch.stack((c, u), dim))
    turns = turns_of(5, 8)
    torch.testing.assert_close(turned(turned(c, turns), turns.conj()), c)


@pytest.mark.parametrize("kv_dtype", ["int8", "int4"])
def test_guided_answers_are_nearer_than_with_halves_apart(kv_dtype: str) -> None:
    assert guided_error(kv_dtype, True) < 0.5 * guided_error(kv_dtype, None)


@settings(deadline=None, max_examples=20)
@given(
    sides=st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=2, max_size=5),
    pictures=st.integers(1, 3),
    guided=st.booleans(),
    kv_dtype=st.sampled_from(["int8", "int4"]),
)
def test_bytes_are_those_of_halves_apart_and_nothing_outlives_a_picture(
    sides: list[tuple[int, int]], pictures: int, guided: bool, kv_dtype: str
) -> None:
    schedule = Schedule(tuple(sides))
    ours, apart = caches_for(kv_dtype, guided), caches_for(kv_dtype, None)
    first = play(ours, schedule, pictures, seed=1)
    play(apart, schedule, pictures, seed=1)
    assert ours.ledger is not None
    assert apart.ledger is not None
    assert ours.ledger.to_dict() == apart.ledger.to_dict()
    second = play(ours, schedule, pictures, seed=2)
    for known, seed in ((first, 1), (second, 2)):
        alone = play(caches_for(kv_dtype, guided), schedule, pictures, seed=seed)
        assert all(torch.equal(a, b) for a, b in zip(known, alone, strict=True))
    ours.release()
    assert (ours.nbytes, ours.transient_nbytes) == (0, 0)


def test_the_conditional_half_goes_on_alone() -> None:
    exact, caches = caches_for("auto", None), caches_for("int8", True)
    drawn = [play(one, pictures=2, late=3) for one in (exact, caches)]
    assert drawn[1][-1].shape[0] == 2
    for a, b in zip(*drawn, strict=True):
        assert float((a - b).square().mean()) < 1e-3 * float(a.square().mean())
    two_sequences = caches_for("int8", None)
    play(two_sequences, pictures=1)
    assert caches.nbytes == two_sequences.nbytes
