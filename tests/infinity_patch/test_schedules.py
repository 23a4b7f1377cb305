"""Schedules, the grid they lie on, and rotary positions."""

from __future__ import annotations

import pytest
import torch

from scalekv.infinity_patch.model.rotary import positions, rotary_table, rotate
from scalekv.infinity_patch.schedules import full_schedule, grid_of, ratios, schedule_for
from scalekv.kv.errors import UserError
from scalekv.kv.schedule import Schedule

# tokens at 1M of all scales but the last
HISTORIES = {
    "1:1": 6425, "5:4": 6854, "4:3": 7085, "3:2": 6941, "7:4": 7220, "2:1": 7219, "5:2": 6805,
    "3:1": 7016,
}  # fmt: skip


@pytest.mark.parametrize(("ratio", "history"), HISTORIES.items())
def test_history_at_1m(ratio: str, history: int) -> None:
    inverse = ":".join(reversed(ratio.split(":")))
    assert full_schedule(ratio).history == full_schedule(inverse).history == history


def test_totals_of_the_pixel_classes() -> None:
    totals = [schedule_for("1:1", p).total for p in ("0.06M", "0.25M", "1M")]
    assert totals == [521, 2521, 10521]


@pytest.mark.parametrize("ratio", ratios())
def test_every_class_lies_on_the_grid_of_its_own_ratio(ratio: str) -> None:
    last = full_schedule(ratio).scales[-1]
    for pixels in ("0.06M", "0.25M", "0.60M", "1M"):
        assert grid_of(schedule_for(ratio, pixels)) == last


def test_width_comes_first_in_a_ratio() -> None:
    h, w = full_schedule("3:2").scales[-1]
    assert (h, w) == (52, 78)


@pytest.mark.parametrize("bad", ["", "3", "3:0", "16:9", "a:b", "1.5"])
def test_other_ratios_are_refused(bad: str) -> None:
    with pytest.raises(UserError, match="no scale schedule"):
        schedule_for(bad, "1M")


def test_a_made_up_schedule_has_no_grid() -> None:
    with pytest.raises(UserError, match="official schedule"):
        grid_of(Schedule.parse("1x1 2x2 5x5"))


def test_positions_round_half_to_even_exactly() -> None:
    assert positions(2, 5) == [0, 2]  # 2.5
    assert positions(6, 111) == [0, 18, 37, 56, 74, 92]  # 18.5 to 18, 55.5 to 56, 92.5 to 92


def test_rotation_keeps_length_and_starts_at_zero() -> None:
    table = rotary_table([(1, 1), (2, 2)], (64, 64), 16)
    assert table.shape == (2, 1, 1, 1, 5, 8)
    x = torch.randn(1, 2, 5, 16)
    turned = rotate(x, table)
    assert torch.equal(turned[:, :, 0], x[:, :, 0])
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))
