"""What every policy that takes a budget must do, whatever it chooses by."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scalekv.kv.policies.policy import Policy, Step
from scalekv.kv.policies.registry import policy_names
from scalekv.kv.policies.selection import window_tokens
from scalekv.kv.schedule import Schedule
from tests.kv.stand_in import Operations, policy_for, step_of

WHOLE_SCALES = "heatkv"  # selects by scale and not by token; its own tests say how
KEEP_ALL = ("full", "coded")
BUDGETED = [name for name in policy_names() if name not in (*KEEP_ALL, WHOLE_SCALES)]
ALL_QUERIES = {"h2o"}  # scores every query, also where nothing is dropped
UNSCORED = {"sliding-window", "streaming-llm", "random", "ams-kv"}

sides = st.integers(1, 7)


def patch_centres(step: Step) -> set[int]:
    height, width = step.schedule.scales[step.scale]
    centres = window_tokens(height, width, step.observers, step.k.device)
    return set((centres + step.k.shape[2] - height * width).tolist())


def anchored(step: Step) -> set[int]:
    """Slots of those of the first three maps' tokens that are held and leave the window room."""
    first = step.schedule.before(min(3, len(step.schedule)))
    most = min(first, step.capacity - step.observers)
    if step.positions is None:
        return set(range(most))
    return set(range(int((step.positions < most).sum(-1).min())))


def newest(count: Callable[[Step], int]) -> Callable[[Step], set[int]]:
    return lambda step: set(range(step.k.shape[2] - count(step), step.k.shape[2]))


def last_window(step: Step) -> int:
    return min(step.observers, step.q.shape[2])


def first_maps(step: Step) -> set[int]:
    """Slots of the first two maps' tokens, of as many whole maps as fit, where all heads hold
    equally many of them."""
    ends = (step.schedule.before(maps) for maps in range(min(2, step.scale + 1) + 1))
    first = max(end for end in ends if end <= step.capacity)
    if step.positions is None:
        return set(range(first))
    held = (step.positions < first).sum(-1)
    return set(range(int(held.min()))) if int(held.min()) == int(held.max()) else set()


def promised(name: str, step: Step) -> list[set[int]]:
    """By head: the slots that a policy always keeps. HACK's even heads are structural here."""
    if name not in BY_KIND:
        return [PROMISED[name](step)] * len(step.heads)
    return [first_maps(step) if head % 2 == 0 else patch_centres(step) for head in step.heads]


PROMISED: dict[str, Callable[[Step], set[int]]] = {
    "scalekv": patch_centres,
    "scalekv-anchored": lambda step: patch_centres(step) | anchored(step),
    "scalekv-released": patch_centres,
    "sliding-window": newest(lambda step: step.capacity),
    "streaming-llm": lambda step: (
        set(range(min(4, step.capacity // 2)))
        | newest(lambda step: step.capacity - min(4, step.capacity // 2))(step)
    ),
    "snapkv": newest(last_window),
    "pyramidkv": newest(last_window),
    "h2o": newest(lambda step: step.capacity - step.capacity // 2),
    "random": newest(lambda step: 0),
    "ams-kv": first_maps,
    "adakv": newest(last_window),
}
BY_KIND = {"hack", "hack-plus"}  # which promise one thing for one kind of heads


def made(name: str, step: Step) -> Policy:
    return policy_for(name, step.schedule, 1, len(step.heads))


def operations(name: str, step: Step) -> Operations:
    policy, recorded = made(name, step), Operations()
    with recorded:
        policy.select(step)
    return recorded


def test_every_policy_says_what_it_always_keeps() -> None:
    assert sorted([*PROMISED, *BY_KIND]) == sorted(BUDGETED)


@pytest.mark.parametrize("name", BUDGETED)
@settings(max_examples=25, deadline=None)
@given(
    scales=st.lists(st.tuples(sides, sides), min_size=1, max_size=5),
    share=st.floats(0.01, 1.1),
    dropped=st.sampled_from([0.0, 0.3, 0.9]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    seed=st.integers(0, 99),
)
def test_slots_are_ascending_in_range_and_exactly_as_many_as_fit(
    name: str,
    scales: list[tuple[int, int]],
    share: float,
    dropped: float,
    dtype: torch.dtype,
    seed: int,
) -> None:
    schedule = Schedule(tuple(scales))
    capacity = max(1, int(share * schedule.total))
    step = step_of(schedule, len(scales) - 1, capacity, dropped=dropped, dtype=dtype, seed=seed)
    tokens = step.k.shape[2]
    slots = made(name, step).select(step)
    if tokens <= capacity:
        assert slots is None
        return
    assert slots is not None
    assert slots.dtype == torch.int64
    assert slots.shape == (*step.k.shape[:2], capacity)
    assert (slots.diff(dim=-1) > 0).all()
    assert int(slots.min()) >= 0
    assert int(slots.max()) < tokens
    for kept in slots.tolist():
        for slots_of_head, always in zip(kept, promised(name, step), strict=True):
            assert always <= set(slots_of_head)


@pytest.mark.parametrize("name", BUDGETED)
def test_selecting_changes_nothing_it_was_given_and_repeats(name: str) -> None:
    schedule = Schedule.parse("2x2 4x4 6x6")
    step, untouched = (step_of(schedule, 2, 20, dropped=0.3) for _ in range(2))
    first = made(name, step).select(step)
    for given_, before in ((step.q, untouched.q), (step.k, untouched.k), (step.v, untouched.v)):
        assert torch.equal(given_, before)
    second = made(name, untouched).select(untouched)
    assert first is not None
    assert second is not None
    assert torch.equal(first, second)


@pytest.mark.parametrize("name", BUDGETED)
def test_missing_positions_mean_all_tokens(name: str) -> None:
    step = step_of(Schedule.parse("2x2 4x4 6x6"), 2, 20)
    tokens = step.k.shape[2]
    spelled = torch.arange(tokens, dtype=torch.int32).expand(2, 2, tokens)
    explicit = Step(**{**vars(step), "positions": spelled, "notes": {}})
    ours, theirs = (made(name, given_).select(given_) for given_ in (step, explicit))
    assert ours is not None
    assert theirs is not None
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", sorted(set(BUDGETED) - ALL_QUERIES))
def test_nothing_is_scored_where_everything_fits(name: str) -> None:
    assert operations(name, step_of(Schedule.parse("2x2 4x4"), 1, 20)).names == []


@pytest.mark.parametrize("name", BUDGETED)
@pytest.mark.parametrize("dropped", [0.0, 0.5])
def test_no_loop_over_sequences_or_heads_and_no_waiting_for_the_device(
    name: str, dropped: float
) -> None:
    schedule = Schedule.parse("4x4 8x8 12x12")
    few = 2 if name in BY_KIND else 1  # heads of both kinds in either case
    # first calls make what is kept for later ones, such as the window's tokens
    for batch, heads in ((1, few), (4, 3)):
        operations(name, step_of(schedule, 2, 50, dropped=dropped, batch=batch, heads=heads))
    small = operations(name, step_of(schedule, 2, 50, dropped=dropped, batch=1, heads=few))
    large = operations(name, step_of(schedule, 2, 50, dropped=dropped, batch=4, heads=3))
    assert small.names == large.names
    waits = ("_local_scalar_dense", "nonzero", "unique", "masked_select")
    assert not [name for name in small.names if any(wait in name for wait in waits)]


@pytest.mark.parametrize("name", sorted(set(BUDGETED) - ALL_QUERIES))
def test_memory_is_the_windows_share(name: str) -> None:
    """Scoring 1600 new tokens would take 100 times what the 16 of the window take."""
    step = step_of(
        Schedule.parse("20x20 40x40 2x2"), 1, 420, dropped=0.5, batch=1, heads=2, head_dim=16
    )
    tokens = step.k.shape[2]
    # float32 scores of the window; without scores, an index of 8 bytes a token
    most = 2 * tokens * (8 if name in UNSCORED else 16 * 4)
    assert operations(name, step).largest <= most
