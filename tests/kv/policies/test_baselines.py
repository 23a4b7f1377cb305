"""Each baseline against its rule written out plainly."""

from __future__ import annotations

import json
import zlib
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from scalekv.kv.budgets.asked import capacities_for
from scalekv.kv.budgets.budget import Budget
from scalekv.kv.caches.caches import Caches
from scalekv.kv.errors import UserError
from scalekv.kv.policies.h2o import H2OPolicy
from scalekv.kv.policies.policy import Step
from scalekv.kv.policies.random import mixed
from scalekv.kv.policies.registry import policy_named
from scalekv.kv.schedule import Schedule
from tests.kv.stand_in import SEVEN, Inputs, exact_attention, play, step_of

RULES = Path(__file__).parents[1] / "rules"
SMALL = Schedule.parse("2x2 4x4 5x7")


def kept_by(name: str, step: Step) -> Tensor:
    slots = policy_named(name).select(step)
    assert slots is not None
    return slots


def weights(queries: Tensor, keys: Tensor) -> Tensor:
    """Attention in double precision, (W, T)."""
    return (queries.double() @ keys.double().T).softmax(-1)


@pytest.mark.parametrize("capacity", [1, 2, 9, 30, 54])
def test_sliding_window_and_streaming_llm(capacity: int) -> None:
    step = step_of(SMALL, 2, capacity)
    newest = list(range(55 - capacity, 55))
    assert kept_by("sliding-window", step).tolist() == [[newest] * 2] * 2
    sinks = min(4, capacity // 2)
    expected = [*range(sinks), *newest[sinks:]]
    assert kept_by("streaming-llm", step).tolist() == [[expected] * 2] * 2


def test_sinks_are_the_pictures_first_tokens_at_every_scale() -> None:
    caches = Caches(2, policy_named("streaming-llm"), lambda s: capacities_for(s, 2, (), 26))
    play(caches, SEVEN, Inputs())
    positions = caches.layers[1].positions
    assert positions is not None
    assert positions[0, 0].tolist() == [0, 1, 2, 3, *range(265 - 22, 265)]


@pytest.mark.parametrize("name", ["snapkv", "pyramidkv"])
@pytest.mark.parametrize(("capacity", "dropped"), [(3, 0.0), (24, 0.0), (24, 0.4), (64, 0.4)])
def test_snapkv(name: str, capacity: int, dropped: float) -> None:
    step = step_of(Schedule.parse("4x4 6x6 8x5"), 2, capacity, dropped=dropped)
    tokens, window = step.k.shape[2], max(1, min(16, capacity // 4))
    slots = kept_by(name, step)
    for sequence in range(2):
        for head in range(2):
            mass = weights(step.q[sequence, head, -window:], step.k[sequence, head]).sum(0)
            scores = mass[: tokens - window].tolist()
            padded = [0.0, 0.0, *scores, 0.0, 0.0]
            pooled = [sum(padded[at : at + 5]) for at in range(len(scores))]
            kept = set(slots[sequence, head].tolist())
            assert len(kept) == capacity
            assert kept >= set(range(tokens - window, tokens))
            # Neighbourhoods that share one strong token differ by less than float32 tells.
            worst = min(pooled[at] for at in kept if at < len(scores))
            assert max(pooled[at] for at in set(range(len(scores))) - kept) <= worst * (1 + 1e-5)


def test_h2o_sums_what_all_queries_of_all_scales_paid() -> None:
    capacity, inputs = 31, Inputs(layers=1)
    caches = Caches(1, H2OPolicy(), lambda s: capacities_for(s, 1, (), capacity))
    paid: dict[tuple[int, int, int], float] = {}  # (sequence, head, position), held ones only
    keys: dict[tuple[int, int, int], Tensor] = {}
    for scale, new in enumerate(SEVEN.tokens[:-1]):
        q, k, v = inputs.at(0, scale, new)
        caches.attend(0, scale, SEVEN, q, k, v, exact_attention)
        for sequence in range(2):
            for head in range(2):
                for at in range(new):
                    token = (sequence, head, SEVEN.before(scale) + at)
                    keys[token], paid[token] = k[sequence, head, at], 0.0
                held = sorted(token for token in paid if token[:2] == (sequence, head))
                mass = weights(q[sequence, head], torch.stack([keys[token] for token in held]))
                for token, more in zip(held, mass.sum(0).tolist(), strict=True):
                    paid[token] += more
                recent = held[-16:]
                heavy = sorted(set(held) - set(recent), key=lambda token: -paid[token])[:15]
                for token in set(held) - set(recent) - set(heavy):
                    del paid[token], keys[token]
                positions = caches.layers[0].positions
                if positions is not None:
                    expected = sorted(token[2] for token in (*recent, *heavy))
                    assert positions[sequence, head].tolist() == expected


def test_h2o_counts_its_notes_and_forgets_them() -> None:
    caches = Caches(2, H2OPolicy(), lambda s: capacities_for(s, 2, (), 26))
    play(caches, SEVEN, Inputs())
    tokens = 2 * 2 * 2 * 26  # layers, sequences, heads
    assert caches.index_nbytes == tokens * 4 + tokens * 4  # positions, sums
    caches.layers[0].reset()
    assert caches.layers[0].index_nbytes == 0
    caches.release()
    assert caches.index_nbytes == 0


def test_random_is_the_same_for_all_sequences_and_differs_elsewhere() -> None:
    step = step_of(SMALL, 2, 20, heads=3)
    slots = kept_by("random", step)
    assert torch.equal(slots[0], slots[1])
    assert torch.equal(slots, kept_by("random", step_of(SMALL, 2, 20, heads=3, seed=5)))
    other = kept_by("random", Step(**{**vars(step), "layer": 1}))
    sets = {tuple(row.tolist()) for row in (*slots[0], *other[0])}
    assert len(sets) == 6


def test_random_keeps_every_token_as_often() -> None:
    """Of 200 layers with 8 heads, a third keep each of the 55 tokens, to five deviations."""
    counts = torch.zeros(55)
    step = step_of(SMALL, 2, 18, heads=8, batch=1)
    for layer in range(200):
        slots = kept_by("random", Step(**{**vars(step), "layer": layer}))
        counts += torch.bincount(slots.flatten(), minlength=55)
    share, draws = 18 / 55, 1600
    deviation = (draws * share * (1 - share)) ** 0.5
    assert float((counts - draws * share).abs().max()) < 5 * deviation


def test_the_shuffle_is_one_to_one_and_the_same_for_numbers_and_tensors() -> None:
    numbers = torch.arange(2**32 - 5000, 2**32)
    shuffled = mixed(numbers)
    assert len(set(shuffled.tolist())) == 5000
    assert 0 <= int(shuffled.min()) <= int(shuffled.max()) < 2**32
    assert shuffled.tolist() == [mixed(number) for number in numbers.tolist()]


def test_released_scoring_is_the_recorded_one() -> None:
    """Max-pooling makes ties, and where they fall on the cut implementations may differ: at least
    98 % of the positions are those recorded."""
    case = json.loads((RULES / "scalekv_released_selection.json").read_text())
    recorded = load_file(RULES / "scalekv_released_selection.safetensors")
    steps, heads, dim = case["steps"], case["H"], case["D"]
    schedule = Schedule((*((s["side"], s["side"]) for s in steps), (64, 64)))
    history = [1, *(min(s["kept"], schedule.before(s["scale"] + 1)) for s in steps[1:])]
    mean = 650
    capacities = [(0,), *((kept,) for kept in history)]

    class Recorded(Budget):
        def __post_init__(self) -> None:
            """One layer of several: its capacities average no mean of their own."""

    budget = Recorded(schedule, 1, tuple(capacities), mean, case["window"])
    caches = Caches(1, policy_named("scalekv-released"), lambda schedule: budget)

    def values(name: str, tokens: int) -> Tensor:
        random = np.random.RandomState(zlib.crc32(name.encode()))
        drawn = random.standard_normal((case["B"], heads, tokens, dim)).astype(np.float32)
        return torch.from_numpy(drawn)

    compared = 0
    for step in steps:
        scale, tokens = step["scale"], step["side"] ** 2
        k = F.normalize(values(f"k:{scale}", tokens), dim=-1)
        raw = values(f"q:{scale}", tokens)
        caches.attend(
            0,
            scale,
            schedule,
            torch.zeros_like(k),  # the true queries have no part in it
            k,
            k,
            exact_attention,
            raw_queries=partial(raw.index_select, 2),
        )
        if f"kept.{scale}" in recorded:
            positions = caches.layers[0].positions
            assert positions is not None
            theirs = recorded[f"kept.{scale}"]
            assert positions.shape == theirs.shape
            for head in range(heads):
                same = set(positions[0, head].tolist()) & set(theirs[0, head].tolist())
                assert len(same) >= 0.98 * step["kept"]
                compared += 1
    assert compared == 5 * heads


def test_released_scoring_without_raw_queries_is_refused() -> None:
    step = Step(**{**vars(step_of(SMALL, 2, 20)), "raw_queries": None})
    with pytest.raises(UserError, match="projection alone") as caught:
        policy_named("scalekv-released").select(step)
    assert "patched" in caught.value.fix
