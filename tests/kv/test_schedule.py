"""Token counts of schedules, their written form, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalekv.kv.errors import UserError
from scalekv.kv.schedule import Schedule
from tests.kv.stand_in import SEVEN, THIRTEEN

sizes = st.lists(st.tuples(st.integers(1, 99), st.integers(1, 99)), min_size=1, max_size=15)


def test_published_token_counts() -> None:
    assert (SEVEN.total, SEVEN.history) == (521, 265)
    assert (THIRTEEN.total, THIRTEEN.history) == (10521, 6425)
    assert THIRTEEN.before(8) == 921  # scale 9 of the published tables


@given(sizes)
def test_counts_agree(scales: list[tuple[int, int]]) -> None:
    schedule = Schedule.of(scales)
    assert len(schedule) == len(scales)
    assert schedule.total == sum(h * w for h, w in scales) == schedule.before(len(schedule))
    assert schedule.history == schedule.total - schedule.tokens[-1]
    for scale, tokens in enumerate(schedule.tokens):
        assert schedule.before(scale + 1) - schedule.before(scale) == tokens


@given(sizes)
def test_text_is_read_back(scales: list[tuple[int, int]]) -> None:
    schedule = Schedule(tuple(scales))
    assert Schedule.parse(str(schedule)) == schedule
    assert hash(Schedule.parse(str(schedule))) == hash(schedule)


def test_infinity_entries_have_a_leading_one() -> None:
    assert Schedule.of([(1, 1, 1), (1, 2, 3)]) == Schedule(((1, 1), (2, 3)))


@pytest.mark.parametrize("text", ["", "1x1 2", "1x1 0x2", "1x1 2x2x2", "1x1,2x2"])
def test_unreadable_text_is_refused(text: str) -> None:
    with pytest.raises(UserError):
        Schedule.parse(text)


def test_the_refusal_names_scale_and_rule() -> None:
    with pytest.raises(UserError) as caught:
        Schedule(((1, 1), (2, 0)))
    assert "scale 2" in caught.value.what
    assert "at least 1" in caught.value.rule
