"""Which picture gets which seed."""

from __future__ import annotations

import pytest

from scalekv.cli.prompts.seeds import MOST_RANDOM, Seeds
from scalekv.kv.errors import UserError


def test_each_picture_has_the_next() -> None:
    assert [Seeds.of(5, same=False).seed(i, i % 2) for i in range(4)] == [5, 6, 7, 8]
    assert Seeds.of(5, same=False).all_of(4, 2) is None


def test_each_prompt_begins_again() -> None:
    assert Seeds.of(5, same=True).all_of(4, 2) == (5, 6, 5, 6)


def test_each_prompt_has_all_that_are_named() -> None:
    for same in (False, True):
        assert Seeds.of((1, 7, 9), same=same).all_of(6, 3) == (1, 7, 9, 1, 7, 9)


def test_a_random_seed_is_another_every_time_and_can_be_typed() -> None:
    drawn = {Seeds.of("random", same=False).first for _ in range(20)}
    assert len(drawn) > 1
    assert all(0 <= seed < MOST_RANDOM for seed in drawn)
    assert Seeds.of("random", same=False).random


def test_one_seed_for_those_that_draw_from_one() -> None:
    assert Seeds.of(3, same=False).one("bench") == 3
    with pytest.raises(UserError, match="bench draws from one seed"):
        Seeds.of((1, 2), same=False).one("bench")
