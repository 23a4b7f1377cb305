"""Policies that work from a calibration of the heads: which kind keeps what, what is refused."""

from __future__ import annotations

import pytest
import torch

from scalekv.kv.errors import UserError
from scalekv.kv.policies.registry import policy_named
from scalekv.kv.policies.selection import dithered, first_and_newest
from scalekv.kv.schedule import Schedule
from tests.kv.stand_in import policy_for, step_of

MAPS = Schedule.parse("1x1 2x2 4x4 8x8 2x2")


@pytest.mark.parametrize("side", [2, 4, 8])
def test_any_beginning_of_a_map_is_spread_evenly(side: int) -> None:
    order = dithered(side, side).view(side, side)
    assert sorted(order.flatten().tolist()) == list(range(side * side))
    blocks = side
    while blocks >= 1:  # the first blocks^2 tokens: one in each of so many squares
        first = (order < blocks * blocks).float()
        width = side // blocks
        squares = first.unfold(0, width, width).unfold(1, width, width).sum((-1, -2))
        assert torch.equal(squares, torch.ones(blocks, blocks))
        blocks //= 2


def test_an_oblong_map_has_every_place_once() -> None:
    assert sorted(dithered(3, 5).tolist()) == list(range(15))
    assert dithered(1, 1).tolist() == [0]


def test_first_maps_then_the_newest_then_the_others_by_age() -> None:
    wanted = first_and_newest(step_of(MAPS, 3, 30), 2)[0, 0]
    maps = wanted.split(MAPS.tokens[:4])
    for more, less in ((0, 1), (1, 3), (3, 2)):
        assert maps[more].min() > maps[less].max()


def test_dropped_tokens_are_wanted_as_before() -> None:
    whole, some = step_of(MAPS, 3, 30), step_of(MAPS, 3, 30, dropped=0.5)
    assert some.positions is not None
    expected = first_and_newest(whole, 2).gather(2, some.positions.long())
    assert torch.equal(first_and_newest(some, 2), expected)


def test_structural_heads_keep_by_place_and_contextual_ones_by_content() -> None:
    """Even heads are structural in the made-up calibration; the two are asked about at once."""
    step = step_of(MAPS, 3, 30, heads=4)
    slots = policy_for("hack", MAPS, 1, 4).select(step)
    by_place = policy_named("ams-kv").select(step)
    assert slots is not None
    assert by_place is not None
    for head in range(4):
        assert torch.equal(slots[:, head], by_place[:, head]) == (head % 2 == 0)
    alone = policy_for("hack", MAPS, 1, 4).select(step_of(MAPS, 3, 30, heads=4, seed=1))
    assert alone is not None
    assert torch.equal(alone[:, 0], slots[:, 0])
    assert not torch.equal(alone[:, 1], slots[:, 1])


@pytest.mark.parametrize("name", ["hack", "hack-plus"])
def test_without_a_calibration_nothing_is_guessed(name: str) -> None:
    with pytest.raises(UserError) as caught:
        policy_named(name).select(step_of(MAPS, 3, 30))
    assert f"{name}:NAME-attention.json" in caught.value.fix
