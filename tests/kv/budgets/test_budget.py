"""Capacities: the released tables, exact means everywhere, and what is refused."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scalekv.kv.budgets.asked import (
    BudgetRequest,
    capacities_for,
    parse_budget,
    percent_tokens,
    resolve,
)
from scalekv.kv.budgets.budget import Budget
from scalekv.kv.budgets.drafters import Drafters, drafters_by_scale
from scalekv.kv.errors import UserError
from scalekv.kv.schedule import Schedule
from tests.kv.stand_in import SEVEN, THIRTEEN

# (layers, drafters, {scale from 1: (drafters keep, others keep)}); published with ScaleKV.
RELEASED: dict[str, tuple[int, Drafters, dict[int, tuple[int, int]]]] = {
    "2B": (
        32,
        {1: [0, 23], 13: [0]},
        {9: (920, 632), 10: (1490, 594), 11: (2510, 526), 12: (4100, 420), 13: (6385, 465)},
    ),
    "8B": (
        40,
        [0, 1, 2],
        {9: (909, 629), 10: (1464, 584), 11: (2463, 503), 12: (4054, 374), 13: (6200, 200)},
    ),
}

# Infinity's maps per ratio (height / width) at 1M; the first 7, 10 and 12 make smaller pictures.
RATIOS = {
    "1.000": str(THIRTEEN),
    "1.250": "1x1 2x2 3x3 5x4 10x8 15x12 20x16 25x20 30x24 35x28 45x36 55x44 70x56",
    "1.333": "1x1 2x2 4x3 8x6 12x9 16x12 20x15 24x18 28x21 36x27 48x36 60x45 72x54",
    "1.500": "1x1 2x2 3x2 6x4 9x6 15x10 21x14 27x18 33x22 39x26 48x32 63x42 78x52",
    "1.750": "1x1 2x2 3x3 7x4 11x6 14x8 21x12 28x16 35x20 42x24 56x32 70x40 84x48",
    "2.000": "1x1 2x2 4x2 6x3 10x5 16x8 22x11 30x15 38x19 46x23 60x30 74x37 90x45",
    "2.500": "1x1 2x2 5x2 10x4 15x6 20x8 25x10 30x12 40x16 50x20 65x26 80x32 100x40",
    "3.000": "1x1 2x2 6x2 9x3 15x5 21x7 27x9 36x12 45x15 54x18 72x24 90x30 111x37",
}


def check_generated(budget: Budget) -> None:
    """Means are exact where tokens are dropped, and every capacity is really used."""
    for scale in range(len(budget.schedule)):
        history = budget.schedule.before(scale)
        row = budget.capacities[scale]
        assert sum(row) == budget.layers * min(history, budget.mean)
        for layer in range(budget.layers):
            assert budget.capacity(scale, layer) == row[layer]
            assert budget.held_tokens(scale, layer) == row[layer]


@pytest.mark.parametrize("model", RELEASED)
def test_the_released_tables_are_reproduced(model: str) -> None:
    layers, drafters, table = RELEASED[model]
    budget = capacities_for(THIRTEEN, layers, drafters, 650)
    by_scale = drafters_by_scale(drafters, THIRTEEN, layers)
    for scale in range(13):
        large, small = table.get(scale + 1, (THIRTEEN.before(scale),) * 2)
        expected = [large if layer in by_scale[scale] else small for layer in range(layers)]
        assert list(budget.capacities[scale]) == expected, f"scale {scale + 1}"
    check_generated(budget)


@pytest.mark.parametrize(("mean", "first"), [(265, 8), (650, 9), (1300, 10)])
def test_compression_starts_where_the_authors_say(mean: int, first: int) -> None:
    budget = capacities_for(THIRTEEN, 32, [0, 23], mean)
    compressed = [
        scale + 1 for scale in range(13) if min(budget.capacities[scale]) < THIRTEEN.before(scale)
    ]
    assert compressed[0] == first


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("scales", [7, 10, 12, 13])
@pytest.mark.parametrize("transposed", [False, True])
def test_means_are_exact_for_every_size(ratio: str, scales: int, transposed: bool) -> None:
    full = Schedule.parse(RATIOS[ratio])
    schedule = Schedule.of((w, h) if transposed else (h, w) for h, w in full.scales[:scales])
    for text in ("4%", "10%", "12.5%", "20%", "50%", "99%", "100%"):
        for layers, drafters, _ in RELEASED.values():
            budget = resolve(parse_budget(text), schedule, layers, drafters)
            assert budget.mean == max(int(Fraction(text.rstrip("%")) * schedule.history / 100), 1)
            assert budget.evicts == (text != "100%")
            check_generated(budget)


def test_the_small_schedule_uses_the_other_floor() -> None:
    budget = resolve(parse_budget("10%"), SEVEN, 8, [0])
    assert budget.mean == 26
    # The least is max(window 16, 26 // 2); scale 5: limit 57, so t = 4.
    assert budget.capacities[4] == (54, *[22] * 7)
    assert budget.capacities[5] == budget.capacities[6] == (96, *[16] * 7)
    check_generated(budget)


def test_uniform_where_even_the_other_floor_fails() -> None:
    budget = capacities_for(SEVEN, 8, [0], mean=16)
    assert set(budget.capacities[-1]) == {16}
    assert capacities_for(SEVEN, 8, (), mean=26).capacities[-1] == (26,) * 8


def test_a_layer_gets_no_dropped_tokens_back() -> None:
    """Layer 1 becomes a drafter only at the last scale: what it lost goes to layer 0 and others."""
    budget = capacities_for(SEVEN, 4, {1: [0], 7: [0, 1]}, mean=80)
    before = budget.capacities[5]
    assert before[1] < SEVEN.before(5)
    most = before[1] + SEVEN.tokens[5]
    assert budget.capacities[6][1] <= most < SEVEN.before(6)
    check_generated(budget)


def test_what_single_drafters_cannot_use_goes_to_the_others() -> None:
    schedule = Schedule.parse("1x1 2x2 4x4 6x6 8x8 2x2 1x1")
    budget = capacities_for(schedule, 4, {1: [0], 7: [0, 1]}, mean=40)
    before, last = budget.capacities[5], budget.capacities[6]
    assert last[1] == before[1] + 4  # all it can hold
    assert last[2:] == (20, 20)  # the least: the others give as much as they would anyway
    assert last[0] == 160 - last[1] - 40 <= before[0] + 4  # the other drafter takes the rest
    check_generated(budget)


@st.composite
def requests(draw: st.DrawFn) -> tuple[Schedule, int, list[list[int]], int, int]:
    side = st.integers(1, 20)
    schedule = Schedule(tuple(draw(st.lists(st.tuples(side, side), min_size=1, max_size=8))))
    layers = draw(st.integers(1, 12))
    rows = st.lists(st.integers(0, layers - 1), unique=True)
    drafters = draw(st.lists(rows, min_size=len(schedule), max_size=len(schedule)))
    mean = draw(st.integers(1, schedule.history + 10))
    return schedule, layers, drafters, mean, draw(st.integers(1, 32))


@settings(max_examples=150, deadline=None)
@given(requests())
def test_every_request_has_an_exact_budget(
    asked: tuple[Schedule, int, list[list[int]], int, int],
) -> None:
    schedule, layers, drafters, mean, window = asked
    budget = capacities_for(schedule, layers, drafters, mean, window)
    assert budget.evicts == (schedule.history > mean)
    check_generated(budget)


@settings(max_examples=100, deadline=None)
@given(requests())
def test_constant_drafters_follow_the_published_rule(
    asked: tuple[Schedule, int, list[list[int]], int, int],
) -> None:
    schedule, layers, rows, mean, window = asked
    drafters = rows[0]
    others = layers - len(drafters)
    budget = capacities_for(schedule, layers, drafters, mean, window)
    least = 200 if mean >= 200 else max(window, mean // 2)
    kept = 0
    for scale in range(1, len(schedule)):
        limit = kept + schedule.tokens[scale - 1]
        kept = min(limit, mean)
        if limit > mean and drafters and others:
            kept = max(
                [mean]
                + [
                    mean + others * t // len(drafters)
                    for t in range(max(mean - least, 0) + 1)
                    if others * t % len(drafters) == 0
                    and mean + others * t // len(drafters) <= limit
                ]
            )
        if drafters:
            assert {budget.capacities[scale][layer] for layer in drafters} == {kept}
        if not drafters or not others:
            assert set(budget.capacities[scale]) == {min(schedule.before(scale), mean)}


@pytest.mark.parametrize(
    ("text", "request_"),
    [
        ("full", BudgetRequest("full", full=True)),
        ("10%", BudgetRequest("10%", percent=Fraction(10))),
        (" 12.5 % ", BudgetRequest("12.5 %", percent=Fraction(25, 2))),
        ("650", BudgetRequest("650", mean=650)),
        (650, BudgetRequest("650", mean=650)),
        ("1.5GiB", BudgetRequest("1.5GiB", nbytes=3 * 2**29)),
        ("0.1 KiB", BudgetRequest("0.1 KiB", nbytes=102)),
        ("200mb", BudgetRequest("200mb", nbytes=200_000_000)),
        ("1kB", BudgetRequest("1kB", nbytes=1000)),
        ("3TB", BudgetRequest("3TB", nbytes=3 * 10**12)),
        ("24576 bytes", BudgetRequest("24576 bytes", nbytes=24576)),
        ("7B", BudgetRequest("7B", nbytes=7)),
        ("paper-10", BudgetRequest("paper-10", name="paper-10")),
        ("a/b.yaml", BudgetRequest("a/b.yaml", name="a/b.yaml")),
    ],
)
def test_budgets_are_read(text: str | int, request_: BudgetRequest) -> None:
    assert parse_budget(text) == request_


@pytest.mark.parametrize(
    "text",
    [
        *("", "0", "-1", "6.5", "1,000", "0%", "-5%", "101%", "1.2.3%", "%", "ten%", ".", 0, -3),
        *("0GiB", "-1MiB", "1.2.3KB", "0.4B", "1,5GiB", "2G", "512m", "1.5Gi"),
    ],
)
def test_impossible_budgets_are_refused(text: str | int) -> None:
    with pytest.raises(UserError) as caught:
        parse_budget(text)
    assert caught.value.where.startswith("budget")
    assert caught.value.rule


def test_percentages_are_of_the_history_and_rounded_down() -> None:
    assert percent_tokens(THIRTEEN, 10) == 642
    assert percent_tokens(SEVEN, 10) == 26
    assert percent_tokens(Schedule.parse("10x10 1x1"), Fraction("0.29") * 100) == 29


def test_less_than_a_token_is_refused_and_the_fix_works() -> None:
    with pytest.raises(UserError) as caught:
        resolve(parse_budget("0.1%"), SEVEN, 8)
    offered = caught.value.fix.split()[-1]
    assert resolve(parse_budget(offered), SEVEN, 8).mean == 1


@settings(max_examples=100, deadline=None)
@given(requests(), st.integers(1, 10**7), st.integers(1, 10**5), st.integers(0, 10**4))
def test_bytes_buy_the_largest_mean_that_fits(
    asked: tuple[Schedule, int, list[list[int]], int, int], nbytes: int, each: int, more: int
) -> None:
    schedule, layers, drafters, _, _ = asked
    request = BudgetRequest("so much", nbytes=nbytes)

    def bytes_of(tokens: int) -> int:
        return layers * (tokens * each + more)

    if bytes_of(1) > nbytes:
        with pytest.raises(UserError, match="so much is less than one token") as caught:
            resolve(request, schedule, layers, drafters, bytes_of=bytes_of)
        offered = parse_budget(caught.value.fix.split()[4].rstrip(","))
        assert offered.nbytes is not None
        assert bytes_of(1) <= offered.nbytes <= bytes_of(1) * 1.011
        resolve(offered, schedule, layers, bytes_of=bytes_of)
        return
    budget = resolve(request, schedule, layers, drafters, bytes_of=bytes_of)
    assert budget.label == "so much"
    assert bytes_of(budget.mean) <= nbytes
    assert budget.mean >= schedule.history or bytes_of(budget.mean + 1) > nbytes
    assert budget.mean <= max(schedule.history, 1)
    check_generated(budget)


def test_a_unit_of_unclear_size_is_asked_about() -> None:
    with pytest.raises(UserError) as caught:
        parse_budget("2g")
    assert caught.value.fix == "2GiB or 2GB"


def test_full_drops_nothing() -> None:
    budget = resolve(parse_budget("full"), SEVEN, 8, [0])
    assert not budget.evicts
    assert budget.capacities[-1] == (265,) * 8
    assert budget.label == "full"


def test_a_single_scale_has_nothing_to_drop() -> None:
    for text in ("full", "10%", "5"):
        assert resolve(parse_budget(text), Schedule.parse("4x4"), 3).capacities == ((0, 0, 0),)


@pytest.mark.parametrize(
    ("drafters", "expected"),
    [
        ([], ((), (), ())),
        ([2, 0], ((0, 2), (0, 2), (0, 2))),
        ({2: [0, 1], 3: [1]}, ((0, 1), (0, 1), (1,))),
        ({}, ((), (), ())),
        ([[], [0], [1, 0]], ((), (0,), (0, 1))),
    ],
)
def test_drafters_for_all_scales_or_each(drafters: list[int], expected: object) -> None:
    assert drafters_by_scale(drafters, Schedule.parse("1x1 2x2 3x3"), 3) == expected


@pytest.mark.parametrize(
    "drafters", [[3], [-1], [0, 0], {0: [1]}, {9: [3]}, [[0], [1]], [[0], [1], 2], {1: [1, 1]}]
)
def test_impossible_drafters_are_refused(drafters: list[int]) -> None:
    with pytest.raises(UserError) as caught:
        drafters_by_scale(drafters, Schedule.parse("1x1 2x2 3x3"), 3)
    assert caught.value.where == "drafters"


@pytest.mark.parametrize("wrong", ["layers", "mean", "window"])
def test_counts_below_one_are_refused(wrong: str) -> None:
    counts = {"layers": 4, "mean": 26, "window": 16, wrong: 0}
    with pytest.raises(UserError, match=wrong):
        capacities_for(SEVEN, counts["layers"], (), counts["mean"], counts["window"])


SMALL = Schedule.parse("1x1 2x2 3x3 4x4")


HEADS = (((0, 0), (0, 0)), ((1, 1), (1, 0)), ((5, 4), (2, 5)), ((14, 0), (0, 2)))
MOST = ((0, 0), (1, 1), (5, 5), (14, 2))


def by_head(head_capacities: object = HEADS, capacities: object = MOST, mean: int = 4) -> Budget:
    return Budget(SMALL, 2, capacities, mean, head_capacities=head_capacities)  # type: ignore[arg-type]


def test_heads_may_differ_and_hold_nothing() -> None:
    budget = by_head()
    assert budget.heads == 2
    assert budget.limits(2, 1, 2) == (2, 5)
    assert budget.capacity(3, 0) == 14
    assert budget.held_by_head(3, 0, 2) == (14, 0)
    assert budget.held_by_head(3, 1, 2) == (0, 2)
    assert budget.held_tokens(2, 1) == 4  # head 1 held nothing before, so 5 are not to be had
    assert budget.evicts


def test_heads_alike_share_the_layers_capacity() -> None:
    budget = capacities_for(SMALL, 2, [0], 4)
    assert budget.heads == 0
    assert budget.limits(3, 0, 5) == (budget.capacity(3, 0),) * 5
    assert budget.held_by_head(3, 1, 2) == (budget.held_tokens(3, 1),) * 2


def test_one_head_that_keeps_less_is_eviction() -> None:
    whole = tuple(((SMALL.before(scale),) * 2,) for scale in range(4))
    most = tuple((SMALL.before(scale),) for scale in range(4))
    assert not Budget(SMALL, 1, most, 14, head_capacities=whole).evicts
    less = (*whole[:3], ((14, 13),))
    assert Budget(SMALL, 1, most, 14, head_capacities=less).evicts


def test_a_budget_by_head_fits_no_other_number_of_heads() -> None:
    with pytest.raises(UserError, match="made for 2 heads, the model has 3"):
        by_head().limits(1, 0, 3)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"head_capacities": HEADS[:3]}, "capacities for 3 scales"),
        ({"head_capacities": (*HEADS[:3], HEADS[3][:1])}, "1 capacities for 2 layers"),
        ({"capacities": (*MOST[:3], (14,))}, "1 capacities for 2 layers"),
        ({"head_capacities": (*HEADS[:3], ((14, 0), (2,)))}, "1 heads in layer 1, 2 elsewhere"),
        ({"head_capacities": (((), ()),) * 4}, "0 heads in layer 0"),
        ({"head_capacities": (*HEADS[:3], ((14, -1), (0, 2)))}, "-1 for head 1 of layer 0"),
        ({"head_capacities": (*HEADS[:3], ((15, 0), (0, 2)))}, "15 for head 0 of layer 0"),
        ({"capacities": (*MOST[:3], (14, 3))}, "capacity 3 for layer 1, 2 for its largest"),
        ({"mean": 3}, "average 4 per head, more than 3"),
    ],
)
def test_impossible_capacities_by_head_are_refused(changes: dict[str, object], says: str) -> None:
    with pytest.raises(UserError) as caught:
        by_head(**changes)  # type: ignore[arg-type]
    assert says in caught.value.what
    assert caught.value.rule
