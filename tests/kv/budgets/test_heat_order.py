"""HeatKV's rule: as recorded, within the mean at every moment, and order files that are wrong."""

from __future__ import annotations

import json
from collections import Counter
from fractions import Fraction
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scalekv.kv.budgets.asked import capacities_for
from scalekv.kv.budgets.heat_order import (
    PROTECTED,
    Kept,
    Order,
    drops,
    heat_budget,
    keeps,
    kept_by_heat,
    order_from_mass,
    read_order,
    write_order,
)
from scalekv.kv.budgets.moments import within
from scalekv.kv.errors import UserError
from scalekv.kv.memory.predicted import peak_held_tokens
from scalekv.kv.schedule import Schedule
from tests.kv.stand_in import SEVEN, THIRTEEN

RULE = json.loads((Path(__file__).parents[1] / "rules" / "heatkv_rule.json").read_text())
RECORDED = read_order(json.dumps(RULE["orders"]))
TEN = Schedule(THIRTEEN.scales[:10])


def shuffled(layers: int, heads: int, sources: int, seed: int) -> Order:
    pairs = [(layer, head) for layer in range(layers) for head in range(heads)]
    random = Random(seed)
    return Order(
        layers, heads, tuple(tuple(random.sample(pairs, len(pairs))) for _ in range(sources))
    )


def held(schedule: Schedule, row: tuple[tuple[tuple[int, ...], ...], ...]) -> int:
    return sum(schedule.tokens[s] for heads in row for sources in heads for s in sources)


@pytest.mark.parametrize("share", RULE["budgets"])
def test_the_recorded_rule_is_reproduced(share: str) -> None:
    expected = RULE["budgets"][share]
    mean = Fraction(share) * THIRTEEN.history
    kept = kept_by_heat(RECORDED, THIRTEEN, mean)
    counts = drops(THIRTEEN, RULE["layers"] * RULE["heads"], mean)
    assert {str(scale): count for scale, count in enumerate(counts)} == expected[
        "removed_slots_per_source_at_incoming_scale"
    ]
    for after, slots in expected["held_token_slots_after_scale"].items():
        assert held(THIRTEEN, kept[int(after) + 1]) == slots
    for after, removed in expected["removed_after_scale"].items():
        row = kept[int(after) + 1]
        for source, layers in removed.items():
            gone = {
                str(layer): [h for h, sources in enumerate(heads) if int(source) not in sources]
                for layer, heads in enumerate(row)
            }
            assert {layer: heads for layer, heads in gone.items() if heads} == layers


def moments(schedule: Schedule, kept: Kept) -> list[int]:
    """Tokens of all heads after every single rewriting of a layer."""
    state = list(kept[0])
    seen = []
    for row in kept[1:]:
        for layer, heads in enumerate(row):
            state[layer] = heads
            seen.append(held(schedule, tuple(state)))
    return seen


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_no_moment_sees_more_than_the_mean(data: st.DataObject) -> None:
    schedule = data.draw(
        st.sampled_from([SEVEN, TEN, THIRTEEN, Schedule.parse("1x1 2x2 3x2 6x4 9x6 15x10 21x14")])
    )
    layers, heads = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 4))
    order = shuffled(layers, heads, len(schedule) - 1 - PROTECTED, data.draw(st.integers(0, 99)))
    mean = data.draw(st.integers(schedule.before(PROTECTED), schedule.history + 5))
    bound = mean * layers * heads
    plan, kept = kept_by_heat(order, schedule, mean), keeps(order, schedule, mean)
    assert max(moments(schedule, kept)) <= bound
    for scale in range(len(schedule)):
        early = []
        for layer in range(layers):
            for head in range(heads):
                sources, wanted = kept[scale][layer][head], plan[scale][layer][head]
                assert set(range(min(scale, PROTECTED))) <= set(sources) <= set(wanted)
                assert list(sources) == sorted(sources)
                if scale:  # nothing comes back
                    assert set(sources) <= {*kept[scale - 1][layer][head], scale - 1}
                early += [(layer, head, source) for source in set(wanted) - set(sources)]
        for layer, head, source in early:
            # Only what goes at the next scale anyway, and in layers before it nothing is spared.
            assert source not in plan[scale + 1][layer][head]
            for later in range(layer + 1, layers):
                for other in range(heads):
                    going = set(plan[scale][later][other]) - set(plan[scale + 1][later][other])
                    assert not going & set(kept[scale][later][other])
        if early:
            now, then = plan[scale], plan[scale + 1]
            peak = max(
                held(schedule, (*then[: done + 1], *now[done + 1 :])) for done in range(layers)
            )
            given_up = sum(schedule.tokens[source] for _, _, source in early)
            # What is brought forward covers the fullest moment, and without its last part would not
            layer = min(layer for layer, _, _ in early)
            last = [
                (source, next(i for i, p in enumerate(order.pairs[source - 3]) if p == (lay, head)))
                for lay, head, source in early
                if lay == layer
            ]
            source = min(last, key=lambda entry: (entry[0], -entry[1]))[0]
            assert given_up >= peak - bound > given_up - schedule.tokens[source]


@pytest.mark.parametrize("schedule", [SEVEN, TEN, THIRTEEN], ids=[7, 10, 13])
@pytest.mark.parametrize("percent", [8, 10, 20, 50, 100])
def test_the_budget_is_what_is_kept(schedule: Schedule, percent: int) -> None:
    order = shuffled(6, 4, 9, seed=percent)  # ranks of larger pictures serve smaller ones
    asked = capacities_for(schedule, 6, [0], schedule.history * percent // 100, label=f"{percent}%")
    budget = heat_budget(asked, order)
    kept = keeps(order, schedule, asked.mean)
    assert (budget.mean, budget.label, budget.heads) == (asked.mean, f"{percent}%", 4)
    assert within(budget) is budget
    assert peak_held_tokens(schedule, 6, budget, heads=4) <= asked.mean * 24
    assert budget.evicts == (percent < 100)
    for scale in range(len(schedule)):
        for layer in range(6):
            tokens = tuple(sum(schedule.tokens[s] for s in kept[scale][layer][h]) for h in range(4))
            assert budget.limits(scale, layer, 4) == tokens
            assert budget.held_by_head(scale, layer, 4) == tokens


def test_too_little_is_refused_with_what_works() -> None:
    with pytest.raises(UserError) as caught:
        drops(THIRTEEN, 16, 20)
    assert "at least 21 tokens" in caught.value.fix
    assert drops(THIRTEEN, 16, 21) == (0, 0, 0, 0, *[16] * 9)


def test_three_scales_or_fewer_are_always_kept() -> None:
    schedule = Schedule.parse("1x1 2x2 4x4")
    assert keeps(shuffled(1, 2, 1, 0), schedule, 5)[-1] == (((0, 1), (0, 1)),)


def test_an_order_for_other_models_or_smaller_pictures_is_refused() -> None:
    with pytest.raises(UserError, match="ranks 4 layers, the model has 8"):
        heat_budget(capacities_for(SEVEN, 8, [], 60), shuffled(4, 2, 3, 0))
    with pytest.raises(UserError, match="ranks 3 source scales, this picture has 9"):
        keeps(shuffled(4, 2, 3, 0), THIRTEEN, 642)


def test_files_are_written_as_they_are_read() -> None:
    order = shuffled(3, 2, 4, seed=5)
    text = write_order(order)
    assert read_order(text) == order
    head, layer = json.loads(text)[1][0]
    assert order.pairs[1][0] == (layer, head)
    assert len(text.splitlines()) == 6


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not readable as JSON"),
        ("{}", "no list of lists"),
        ("[1]", "no list of lists"),
        ("[[]]", "no list of lists"),
        ("[]", "no source scale"),
        ("[[[0, 0, 1]]]", "index 3 ranks [0, 0, 1]"),
        ("[[[0, 0]], [[0, -1]]]", "index 4 ranks [0, -1]"),
        ("[[[0, true]]]", "ranks [0, True]"),
        ("[[[0, 0], [0, 0]]]", "head 0 of layer 0 comes twice"),
        ("[[[0, 0], [1, 0]], [[0, 0]]]", "1 heads are ranked, not 2"),
    ],
)
def test_a_file_with_a_mistake_is_refused(text: str, says: str) -> None:
    with pytest.raises(UserError) as caught:
        read_order(text, where="mine.json")
    assert says in caught.value.what
    assert caught.value.where.startswith("mine.json")
    assert caught.value.rule


def test_the_least_looked_at_go_first_and_ties_by_head() -> None:
    mass = [[[9.0, 9.0], [9.0, 9.0]]] * 3 + [[[0.2, 0.1], [0.2, 0.4]], [[0, 0], [0, 0]]]
    order = order_from_mass(mass)
    assert order.pairs == (
        ((0, 1), (0, 0), (1, 0), (1, 1)),
        ((0, 0), (1, 0), (0, 1), (1, 1)),
    )


@pytest.mark.parametrize(
    ("mass", "says"),
    [
        ([], "0 source scales"),
        ([[[1.0]]] * 3, "3 source scales"),
        ([[[1.0, 1.0]]] * 3 + [[[1.0]]], "1 heads are ranked"),
        ([[[1.0]]] * 3 + [[[1.0, 1.0]]], "no head 1 in layer 0"),
        ([[[1.0]]] * 3 + [[[float("nan")]]], "not a number"),
    ],
)
def test_masses_that_rank_nothing_are_refused(mass: list[list[list[float]]], says: str) -> None:
    with pytest.raises(UserError, match=says):
        order_from_mass(mass)


def test_every_pair_is_ranked_once_per_source() -> None:
    for ranked in RECORDED.pairs:
        assert set(Counter(ranked).values()) == {1}
        assert len(ranked) == RULE["layers"] * RULE["heads"]
