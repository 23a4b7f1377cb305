from __future__ import annotations

import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from scalekv.kv.coded.allocation import allocate, histogram
from scalekv.kv.coded.constants import ALONE, GUIDED
from scalekv.kv.coded.levels import LEVELS, OFFSETS
from scalekv.kv.coded.units import units_of
from scalekv.kv.errors import UserError
from scalekv.kv.schedule import Schedule
from tests.kv.coded.made import made_constants

SCHEDULE = Schedule(((1, 1), (2, 2), (4, 4), (6, 6), (8, 8), (12, 12), (16, 16)))


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("guided", [True, False])
def test_counts_are_those_of_every_importance(guided: bool, apart: bool) -> None:
    constants = made_constants(groups=7, apart=apart)
    threshold, scale = -250, 5
    counts = histogram(constants, SCHEDULE, guided).counts(scale, threshold)
    expected = np.zeros_like(counts)
    for units in units_of(SCHEDULE)[:scale]:
        for layer in range(constants.layers):
            q = constants.importances(layer, GUIDED if guided else ALONE, units)
            level = sum((q >= threshold + offset).astype(int) for offset in OFFSETS)
            for size, part in zip(units.sizes, np.moveaxis(np.asarray(level), 3, 0), strict=True):
                for i in range(1, len(LEVELS)):
                    expected[i - 1, units.number, layer] += size * int((part == i).sum())
    assert np.array_equal(counts, expected)


@settings(deadline=None, max_examples=60)
@given(
    sides=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=7),
    layers=st.integers(1, 4),
    guided=st.booleans(),
    pictures=st.integers(1, 3),
    percent=st.integers(1, 100),
    apart=st.booleans(),
)
def test_no_moment_holds_more_than_the_budget(
    sides: list[tuple[int, int]],
    layers: int,
    guided: bool,
    pictures: int,
    percent: int,
    apart: bool,
) -> None:
    schedule = Schedule(tuple(sides))
    constants = made_constants(layers, heads=2, dim=8, apart=apart)
    token_bytes = pictures * (2 if guided else 1) * 2 * 8 * 2 * 2
    budget = percent * schedule.history * token_bytes * layers // 100
    try:
        found = allocate(
            constants,
            schedule,
            guided=guided,
            pictures=pictures,
            token_bytes=token_bytes,
            budget_bytes=budget,
        )
    except UserError as error:
        assume(False)
        raise AssertionError from error
    assert found.peak_bytes <= budget
    for scale, row in enumerate(found.layer_bytes):
        fits = schedule.before(scale) * token_bytes * layers <= budget
        assert (scale < found.first) == fits
        if fits and scale:
            assert row == (found.raw_tokens * token_bytes,) * layers
    coded = found.thresholds[found.first :]
    assert all(low <= high for low, high in pairwise(coded))


def test_a_larger_budget_gives_more_bits_and_is_used() -> None:
    constants = made_constants()
    full = SCHEDULE.history * 128 * 2
    found = [
        allocate(
            constants,
            SCHEDULE,
            guided=True,
            pictures=1,
            token_bytes=128,
            budget_bytes=full * percent // 1000,
        )
        for percent in (10, 25, 50, 100, 200)
    ]
    last = [m.thresholds[-1] for m in found]
    assert last == sorted(last, reverse=True)
    for m in found[:-1]:
        assert m.peak_bytes >= 0.97 * m.budget_bytes


def test_a_budget_that_has_no_room_is_refused() -> None:
    with pytest.raises(UserError, match="no room for a coded history") as refused:
        allocate(
            made_constants(),
            SCHEDULE,
            guided=True,
            pictures=1,
            token_bytes=128,
            budget_bytes=100,
        )
    assert "gains" in refused.value.rule


def test_arithmetic_needs_no_torch() -> None:
    code = "import sys, scalekv.kv.coded.allocation; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
