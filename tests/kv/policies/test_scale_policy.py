"""ScaleKV's selection against a slow one written out plainly, and what it may not do."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scalekv.kv.kernels.best import best_slots
from scalekv.kv.kernels.mass import attention_mass
from scalekv.kv.policies.policy import Step
from scalekv.kv.policies.scale import ScaleKVPolicy
from scalekv.kv.policies.selection import window_grid, window_tokens
from scalekv.kv.schedule import Schedule
from tests.kv.stand_in import THIRTEEN, Operations, step_of

CPU = torch.device("cpu")


def plain_window(height: int, width: int, most: int) -> list[int]:
    """Central tokens of the largest grid, by trying every grid."""
    best: tuple[float, ...] = ()
    chosen = (1, 1)
    for rows in range(1, height + 1):
        for columns in range(1, width + 1):
            if rows * columns <= most:
                patch = (height / rows, width / columns)
                rank = (rows * columns, -max(patch) / min(patch), -rows)
                if not best or rank > best:
                    best, chosen = rank, (rows, columns)

    def centres(length: int, parts: int) -> list[int]:
        spans = [range(i * length // parts, (i + 1) * length // parts) for i in range(parts)]
        return [span[(len(span) - 1) // 2] for span in spans]

    return [
        row * width + column
        for row in centres(height, chosen[0])
        for column in centres(width, chosen[1])
    ]


def plain_scores(step: Step, sequence: int, head: int) -> tuple[list[float], set[int]]:
    """Pooled score of every slot in double precision, and the slots of the window."""
    k = step.k[sequence, head].double().tolist()
    q = step.q[sequence, head].double().tolist()
    tokens, new = len(k), step.schedule.tokens[step.scale]
    places = (
        list(range(tokens)) if step.positions is None else step.positions[sequence, head].tolist()
    )
    window = plain_window(
        *step.schedule.scales[step.scale], min(step.window, max(step.capacity // 4, 1))
    )
    mass = [0.0] * tokens
    for token in window:
        logits = [sum(a * b for a, b in zip(q[token], key, strict=True)) for key in k]
        weights = [math.exp(logit - max(logits)) for logit in logits]
        for slot, weight in enumerate(weights):
            mass[slot] += weight / sum(weights)
    where = {}  # (scale, row, column) -> slot
    for slot, place in enumerate(places):
        scale = max(s for s in range(len(step.schedule)) if step.schedule.before(s) <= place)
        row, column = divmod(place - step.schedule.before(scale), step.schedule.scales[scale][1])
        where[scale, row, column] = slot
    pooled = [0.0] * tokens
    for (scale, row, column), slot in where.items():
        near = [
            mass[where[scale, r, c]]
            for r in range(row - 2, row + 3)
            for c in range(column - 2, column + 3)
            if (scale, r, c) in where
        ]
        pooled[slot] = sum(near) / len(near)
    return pooled, {tokens - new + token for token in window}


def check_against_plain(step: Step) -> None:
    """Counts, order, window, and that nothing dropped scores clearly above anything kept."""
    slots = ScaleKVPolicy().select(step)
    tokens = step.k.shape[2]
    if tokens <= step.capacity:
        assert slots is None
        return
    assert slots is not None
    assert slots.dtype == torch.int64
    assert slots.shape == (*step.k.shape[:2], step.capacity)
    for sequence in range(slots.shape[0]):
        for head in range(slots.shape[1]):
            kept = slots[sequence, head].tolist()
            assert kept == sorted(set(kept))
            assert set(kept) <= set(range(tokens))
            scores, window = plain_scores(step, sequence, head)
            assert window <= set(kept)
            lowest = min((scores[slot] for slot in set(kept) - window), default=math.inf)
            highest = max(scores[slot] for slot in set(range(tokens)) - set(kept))
            assert highest <= lowest * (1 + 1e-4)


sides = st.integers(1, 7)


@settings(max_examples=60, deadline=None)
@given(
    scales=st.lists(st.tuples(sides, sides), min_size=1, max_size=5),
    share=st.floats(0.01, 1.1),
    dropped=st.sampled_from([0.0, 0.3, 0.9]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    seed=st.integers(0, 99),
)
def test_it_keeps_what_the_plain_rule_keeps(
    scales: list[tuple[int, int]], share: float, dropped: float, dtype: torch.dtype, seed: int
) -> None:
    schedule = Schedule(tuple(scales))
    capacity = max(1, int(share * schedule.total))
    check_against_plain(
        step_of(schedule, len(scales) - 1, capacity, dropped=dropped, dtype=dtype, seed=seed)
    )


def test_the_same_without_ties_is_the_same_set() -> None:
    step = step_of(Schedule.parse("7x9 9x7 11x5"), 2, 60, dropped=0.4)
    slots = ScaleKVPolicy().select(step)
    assert slots is not None
    for sequence in range(2):
        for head in range(2):
            scores, window = plain_scores(step, sequence, head)
            ranked = sorted(set(range(step.k.shape[2])) - window, key=lambda slot: -scores[slot])
            expected = window | set(ranked[: 60 - len(window)])
            assert set(slots[sequence, head].tolist()) == expected


def test_missing_positions_mean_all_tokens() -> None:
    step = step_of(Schedule.parse("2x2 4x4 6x6"), 2, 20)
    tokens = step.k.shape[2]
    spelled = torch.arange(tokens, dtype=torch.int32).expand(2, 2, tokens)
    explicit = Step(**{**vars(step), "positions": spelled})
    ours, theirs = ScaleKVPolicy().select(step), ScaleKVPolicy().select(explicit)
    assert ours is not None
    assert theirs is not None
    assert torch.equal(ours, theirs)


def test_it_is_deterministic_with_all_scores_equal() -> None:
    step = step_of(Schedule.parse("4x4 8x8"), 1, 20)
    step.k.zero_()
    slots = ScaleKVPolicy().select(step)
    assert slots is not None
    window = plain_window(8, 8, 5)
    expected = sorted([*range(20 - len(window)), *(16 + token for token in window)])
    assert slots.tolist() == [[expected] * 2] * 2


def test_float32_scores_decide_between_bfloat16_keys() -> None:
    """Logits that differ by less than bfloat16 resolves are told apart."""
    step = step_of(Schedule.parse("16x16 4x4"), 1, 64, head_dim=2, dtype=torch.bfloat16)
    step.q.copy_(torch.tensor([64.0, 0.25]))
    step.k[..., 0] = 1.0
    step.k[..., 1] = torch.linspace(0, 1, 272).bfloat16()
    check_against_plain(step)
    slots = ScaleKVPolicy().select(step)
    assert slots is not None
    assert int(slots[0, 0, 0]) > 128


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_mass_is_that_of_float32(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    q = 4 * torch.randn(2, 2, 5, 8, generator=generator).to(dtype)
    k = torch.randn(2, 2, 2500, 8, generator=generator).to(dtype)
    exact = (q.double() @ k.double().mT).softmax(-1).sum(2)
    for enabled in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            mass = attention_mass(q, k)
        assert mass.dtype == torch.float32
        torch.testing.assert_close(mass.double(), exact, rtol=2e-5, atol=0)


@given(st.integers(1, 70), st.integers(1, 70), st.integers(1, 16))
def test_the_window_is_the_largest_grid(height: int, width: int, most: int) -> None:
    rows, columns = window_grid(height, width, most)
    assert rows <= height
    assert columns <= width
    sizes = [r * c for r in range(1, height + 1) for c in range(1, width + 1) if r * c <= most]
    assert rows * columns == max(sizes)
    tokens = window_tokens(height, width, most, CPU).tolist()
    assert tokens == sorted(set(tokens)) == plain_window(height, width, most)
    assert 0 <= tokens[0] <= tokens[-1] < height * width


@pytest.mark.parametrize(
    ("height", "width", "most", "grid"),
    [
        (64, 64, 16, (4, 4)),
        (111, 37, 16, (8, 2)),
        (37, 111, 16, (2, 8)),
        (2, 2, 16, (2, 2)),
        (1, 1, 16, (1, 1)),
        (2, 20, 16, (1, 16)),
        (16, 16, 4, (2, 2)),
        (16, 16, 6, (2, 3)),
        (24, 16, 6, (3, 2)),
        (16, 16, 0, (1, 1)),
    ],
)
def test_grids(height: int, width: int, most: int, grid: tuple[int, int]) -> None:
    assert window_grid(height, width, most) == grid


@pytest.mark.parametrize(("side", "rows"), [(20, [2, 7, 12, 17]), (24, [2, 8, 14, 20])])
def test_central_tokens_are_those_of_the_released_code(side: int, rows: list[int]) -> None:
    expected = [row * side + column for row in rows for column in rows]
    assert window_tokens(side, side, 16, CPU).tolist() == expected


def test_the_best_slots_come_in_order_and_ties_go_to_the_first() -> None:
    scores = torch.tensor([[[1.0, 3.0, 3.0, 2.0, 3.0]]])
    assert best_slots(scores, 2).tolist() == [[[1, 2]]]
    assert best_slots(scores, 4).tolist() == [[[1, 2, 3, 4]]]


def operations(step: Step) -> Operations:
    recorded = Operations()
    with recorded:
        ScaleKVPolicy().select(step)
    return recorded


def test_nothing_is_scored_where_everything_fits() -> None:
    step = step_of(Schedule.parse("2x2 4x4"), 1, 20)
    assert operations(step).names == []


@pytest.mark.parametrize("dropped", [0.0, 0.5])
def test_no_loop_over_sequences_or_heads_and_no_waiting_for_the_device(dropped: float) -> None:
    schedule = Schedule.parse("4x4 8x8 12x12")
    operations(step_of(schedule, 2, 50))  # the window's places are kept for the next call
    small = operations(step_of(schedule, 2, 50, dropped=dropped, batch=1, heads=1))
    large = operations(step_of(schedule, 2, 50, dropped=dropped, batch=4, heads=3))
    assert small.names == large.names
    waits = ("_local_scalar_dense", "nonzero", "unique", "masked_select")
    assert not [name for name in small.names if any(wait in name for wait in waits)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_memory_is_the_windows_share(dtype: torch.dtype) -> None:
    """2425 new tokens attended by all would take 1600 of them squared; the window takes 16."""
    step = step_of(THIRTEEN, 10, 420, dropped=0.8, batch=1, heads=2, head_dim=16, dtype=dtype)
    tokens = step.k.shape[2]
    assert operations(step).largest <= 2 * 16 * tokens * 4
