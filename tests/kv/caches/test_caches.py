"""All layers together: exactness of the full cache, exact counts and bytes under eviction, and no
state left between pictures."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from scalekv.kv.budgets.moments import within
from scalekv.kv.caches.caches import Caches
from scalekv.kv.caches.layer import LayerCache
from scalekv.kv.dtypes import DTYPE_NAMES
from scalekv.kv.errors import UserError
from scalekv.kv.memory.predicted import CacheShape, full_cache_bytes, predicted
from scalekv.kv.policies.registry import planned, policy_named, policy_names
from scalekv.kv.precision import precision_of
from scalekv.kv.schedule import Schedule
from tests.kv.stand_in import (
    PORTRAIT,
    SEVEN,
    Inputs,
    exact_attention,
    full_caches,
    percent,
    play,
    play_by_concatenation,
    policy_for,
)

SELECTING = [name for name in policy_names() if name != "coded"]  # whose caches have own tests
BUDGETED = [name for name in SELECTING if name != "full"]


def positions_by_head(cache: LayerCache) -> dict[int, Tensor]:
    """(B, n) of each head; all tokens where none was dropped."""
    everything = torch.arange(cache.seen, dtype=torch.int32)
    return {
        head: everything.expand(len(cache.kept), -1)
        if group.positions is None
        else group.positions[:, place]
        for group in cache.groups
        for place, head in enumerate(group.heads)
    }


def assert_same_bits(ours: list[Tensor], theirs: list[Tensor]) -> None:
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_full_is_concatenation_bit_for_bit(dtype: torch.dtype) -> None:
    """Also for a second picture, after another schedule and batch size, and after a reset."""
    caches = full_caches()
    pictures = [
        (SEVEN, Inputs(dtype=dtype)),
        (SEVEN, Inputs(dtype=dtype, seed=1)),
        (PORTRAIT, Inputs(dtype=dtype, batch=4)),
        (SEVEN, Inputs(dtype=dtype)),
    ]
    for schedule, inputs in pictures:
        assert_same_bits(play(caches, schedule, inputs), play_by_concatenation(schedule, inputs))
    caches.reset()
    schedule, inputs = pictures[0]
    assert_same_bits(play(caches, schedule, inputs), play_by_concatenation(schedule, inputs))


def test_a_budget_that_drops_nothing_is_exact_too() -> None:
    inputs = Inputs()
    caches = Caches(2, policy_named("scalekv"), percent("full"))
    assert_same_bits(play(caches, SEVEN, inputs), play_by_concatenation(SEVEN, inputs))


def test_the_last_scale_is_not_kept() -> None:
    caches = full_caches()
    play(caches, SEVEN, Inputs())
    assert caches.nbytes == caches.peak_nbytes == full_cache_bytes(SEVEN, 2, 2, 2, 8, 4)
    assert caches.layers[0].kept.tolist() == [[265, 265]] * 2
    assert caches.ledger is not None
    assert caches.ledger.ratio_history == 1.0


def test_an_observer_sees_every_call_with_all_its_keys_and_changes_nothing() -> None:
    inputs, caches = Inputs(), full_caches()
    seen: list[tuple[int, int]] = []

    def observe(
        layer: int, scale: int, schedule: Schedule, q: Tensor, k: Tensor, v: Tensor
    ) -> None:
        seen.append((layer, scale))
        given = [inputs.at(layer, s, schedule.tokens[s]) for s in range(scale + 1)]
        assert torch.equal(q, given[-1][0])
        assert torch.equal(k, torch.cat([keys for _, keys, _ in given], dim=2))
        assert torch.equal(v, torch.cat([values for _, _, values in given], dim=2))

    caches.observer = observe
    assert_same_bits(play(caches, SEVEN, inputs), play_by_concatenation(SEVEN, inputs))
    assert seen == [(layer, scale) for scale in range(7) for layer in range(2)]


@pytest.mark.parametrize("name", BUDGETED)
@pytest.mark.parametrize("schedule", [SEVEN, PORTRAIT], ids=["square", "portrait"])
@pytest.mark.parametrize("text", ["10%", "20%", "50%", "13"])
@pytest.mark.parametrize(
    ("dtype", "kv_dtype"),
    [
        (torch.float32, "auto"),
        (torch.bfloat16, "auto"),
        (torch.float32, "bf16"),
        (torch.bfloat16, "int8"),
        (torch.float32, "int4"),
    ],
    ids=lambda x: str(x).removeprefix("torch."),
)
def test_counts_and_bytes_are_the_arithmetics(
    name: str, schedule: Schedule, text: str, dtype: torch.dtype, kv_dtype: str
) -> None:
    layers, heads, sequences, dim = 3, 2, 2, 8
    policy = policy_for(name, schedule, layers, heads)
    asked = percent(text, layers)(schedule)
    if name == "heatkv" and asked.mean < schedule.before(3):
        with pytest.raises(UserError, match="never drops"):
            Caches(layers, policy, percent(text, layers), schedule)
        return
    budget = planned(policy, asked)
    limits = within(budget)
    caches = Caches(layers, policy, percent(text, layers), schedule, kv_dtype=kv_dtype)
    assert caches.budget == budget
    precision = precision_of(kv_dtype, DTYPE_NAMES[dtype])
    shape = CacheShape(layers, sequences, heads, dim, dtype.itemsize, dtype.itemsize)
    expected = predicted(schedule, shape, budget, precision)
    moments = []

    def watch(scale: int, layer: int) -> None:
        moments.append(caches.nbytes)
        cache = caches.layers[layer]
        following = min(scale + 1, len(schedule) - 1)
        assert cache.kept.tolist() == [list(limits.limits(following, layer, heads))] * sequences
        for group in cache.groups:
            if group.positions is not None and group.tokens:
                assert (group.positions.diff(dim=-1) > 0).all()
                assert int(group.positions.min()) >= 0
                assert int(group.positions.max()) < schedule.before(following)

    for seed in range(2):  # the second picture starts from nothing
        inputs = Inputs(layers=layers, dtype=dtype, seed=seed)
        play(caches, schedule, inputs, watch)
        ledger = caches.ledger
        assert ledger is not None
        assert ledger.held_peak_bytes == caches.peak_nbytes == max(moments)
        assert ledger.held_peak_bytes == expected.held_peak_bytes
        assert ledger.transient_peak_bytes == caches.transient_nbytes
        assert ledger.transient_peak_bytes == expected.transient_peak_bytes
        if name != "h2o":  # whose notes are counted too
            assert ledger.index_peak_bytes == expected.index_peak_bytes
        rows = ledger.to_dict()["scales"]
        assert tuple(row["held_bytes"] for row in rows) == expected.scale_bytes
        assert ledger.full_bytes == full_cache_bytes(schedule, layers, 2, 2, 8, dtype.itemsize)
        # never above what was asked for, at no moment; quantised, a token takes less than plain
        if not precision.quantised:
            per_token = sequences * heads * precision.token_bytes(dim)
            assert max(moments) <= budget.mean * layers * per_token
        for scale in range(len(schedule)):
            for layer in range(layers):
                held = ledger.held(scale, layer)
                assert held is not None
                assert held.held_max == limits.capacity(scale, layer)
                assert held.capacity == budget.capacity(scale, layer)


def test_pictures_of_different_sizes_take_their_own_budgets() -> None:
    caches = Caches(2, policy_named("scalekv"), percent("20%"))
    for schedule in (SEVEN, PORTRAIT, SEVEN):
        play(caches, schedule, Inputs())
        assert caches.budget == percent("20%")(schedule)
        assert set(caches.layers[1].kept.flatten().tolist()) == {caches.budget.capacity(-1, 1)}


@pytest.mark.parametrize("name", SELECTING)
def test_equal_inputs_give_equal_bits_whatever_came_before(name: str) -> None:
    first = Caches(2, policy_for(name, SEVEN, 2), percent("50%"))
    expected = play(first, SEVEN, Inputs(seed=3))
    second = Caches(2, policy_for(name, SEVEN, 2), percent("50%"))
    play(second, PORTRAIT, Inputs(seed=4, batch=4))
    assert_same_bits(play(second, SEVEN, Inputs(seed=3)), expected)


@pytest.mark.parametrize("name", BUDGETED)
def test_sequences_select_apart(name: str) -> None:
    """Each sequence of a batch, a guidance half or a picture, keeps what it would keep alone."""
    inputs = Inputs(batch=3)

    class Alone(Inputs):
        def at(self, layer: int, scale: int, tokens: int) -> tuple[Tensor, Tensor, Tensor]:
            q, k, v = inputs.at(layer, scale, tokens)
            return q[1:2], k[1:2], v[1:2]

    together = Caches(2, policy_for(name, SEVEN, 2), percent("20%"))
    play(together, SEVEN, inputs)
    alone = Caches(2, policy_for(name, SEVEN, 2), percent("20%"))
    play(alone, SEVEN, Alone(batch=1))
    for layer in range(2):
        ours, theirs = (positions_by_head(c.layers[layer]) for c in (together, alone))
        assert all(torch.equal(ours[head][1:2], theirs[head]) for head in range(2))


@pytest.mark.parametrize("name", BUDGETED)
def test_memory_is_freed_by_release_and_forgotten_by_reset(name: str) -> None:
    caches = Caches(2, policy_for(name, SEVEN, 2), percent("20%"))
    play(caches, SEVEN, Inputs())
    peak, ledger = caches.peak_nbytes, caches.ledger
    caches.release()
    assert (caches.nbytes, caches.index_nbytes, caches.transient_nbytes) == (0, 0, 0)
    assert (caches.peak_nbytes, caches.ledger) == (peak, ledger)
    caches.reset()
    assert (caches.peak_nbytes, caches.ledger) == (0, None)


@pytest.mark.parametrize("name", BUDGETED)
def test_a_picture_broken_off_leaves_nothing_behind(name: str) -> None:
    caches = Caches(2, policy_for(name, SEVEN, 2), percent("20%"))
    expected = play(caches, SEVEN, Inputs())

    def fail(scale: int, layer: int) -> None:
        if (scale, layer) == (4, 0):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        play(caches, SEVEN, Inputs(seed=9), fail)
    assert caches.ledger is not None
    assert len(caches.ledger.to_dict()["scales"]) == 5
    assert_same_bits(play(caches, SEVEN, Inputs()), expected)


def test_inference_mode_and_gradients_may_alternate() -> None:
    caches, inputs = full_caches(), Inputs()
    expected = play_by_concatenation(SEVEN, inputs)
    with torch.inference_mode():
        assert_same_bits(play(caches, SEVEN, inputs), expected)
    with torch.no_grad():
        assert_same_bits(play(caches, SEVEN, inputs), expected)
    with torch.inference_mode():
        assert_same_bits(play(caches, SEVEN, inputs), expected)
    for tensors in inputs._made.values():
        for tensor in tensors:
            tensor.requires_grad_()
    play(caches, SEVEN, inputs)
    assert caches.layers[0].tokens
    held = torch.empty(2, 2, 2, 265, 8)
    caches.layers[0].copy_to(caches.layers[0].groups[0], held)
    assert not held.requires_grad


def test_heads_that_hold_unequally_may_attend_in_one_call() -> None:
    lengths_seen = []

    def ragged(q: Tensor, k: Tensor, v: Tensor, length: int, lengths: tuple[int, ...]) -> Tensor:
        lengths_seen.append(lengths)
        parts = zip(q.split(length), k.split(list(lengths)), v.split(list(lengths)), strict=True)
        return torch.cat([exact_attention(*(x[None] for x in part))[0] for part in parts])

    inputs = Inputs(heads=4, batch=3)
    group_by_group, at_once = (
        Caches(2, policy_for("heatkv", SEVEN, 2, 4), percent("20%")) for _ in range(2)
    )
    expected = play(group_by_group, SEVEN, inputs)
    ours = []
    for scale, tokens in enumerate(SEVEN.tokens):
        for layer in range(2):
            q, k, v = inputs.at(layer, scale, tokens)
            ours.append(
                at_once.attend(layer, scale, SEVEN, q, k, v, exact_attention, ragged=ragged)
            )
    for one, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(one, other)
    assert lengths_seen
    assert all(len(lengths) == 12 for lengths in lengths_seen)
    assert any(len(set(lengths)) > 1 for lengths in lengths_seen)


@pytest.mark.parametrize("name", ["full", "scalekv", "heatkv"])
def test_bringing_the_next_layer_ahead_changes_no_bit(name: str) -> None:
    """The order of copies alone: without a second device they are made at once."""
    plain, ahead = (Caches(3, policy_for(name, SEVEN, 3), percent("20%", 3)) for _ in range(2))
    inputs = Inputs(layers=3)
    expected = play(plain, SEVEN, inputs)

    def watch(scale: int, layer: int) -> None:
        ahead._workspace.ahead = True

    assert_same_bits(play(ahead, SEVEN, inputs, watch), expected)
    assert plain.transient_nbytes < ahead.transient_nbytes <= 2 * plain.transient_nbytes


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["full", "scalekv", "heatkv", "h2o"])
@pytest.mark.parametrize("kv_dtype", ["auto", "int8", "int4"])
def test_held_in_the_hosts_memory_no_bit_differs(name: str, kv_dtype: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    inputs, outputs = Inputs(layers=3, dtype=torch.bfloat16, device="cuda"), []
    for place in ("auto", "cpu"):
        caches = Caches(
            3, policy_for(name, SEVEN, 3), percent("20%", 3), kv_dtype=kv_dtype, kv_device=place
        )
        outputs.append(play(caches, SEVEN, inputs))
        assert caches.nbytes
    assert_same_bits(*outputs)


@pytest.mark.parametrize("name", BUDGETED)
def test_autocast_changes_no_choice(name: str) -> None:
    kept = []
    for enabled in (False, True):
        caches = Caches(2, policy_for(name, SEVEN, 2), percent("20%"))
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            play(caches, SEVEN, Inputs())
        kept.append(positions_by_head(caches.layers[1]))
    assert all(torch.equal(kept[0][head], kept[1][head]) for head in range(2))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", SELECTING)
def test_on_cuda_nothing_waits_for_the_device(name: str) -> None:
    class OnDevice(Inputs):
        def at(self, layer: int, scale: int, tokens: int) -> tuple[Tensor, Tensor, Tensor]:
            q, k, v = super().at(layer, scale, tokens)
            return q.cuda(), k.cuda(), v.cuda()

    class Fetched(Inputs):
        def at(self, layer: int, scale: int, tokens: int) -> tuple[Tensor, Tensor, Tensor]:
            return result[layer, scale]

    source = OnDevice(dtype=torch.bfloat16)
    result = {
        (layer, scale): source.at(layer, scale, tokens)
        for scale, tokens in enumerate(SEVEN.tokens)
        for layer in range(2)
    }
    caches = Caches(2, policy_for(name, SEVEN, 2), percent("10%"))
    play(caches, SEVEN, Fetched())  # libraries load, and may wait, at their first use
    torch.cuda.set_sync_debug_mode("error")
    try:
        play(caches, SEVEN, Fetched())
    finally:
        torch.cuda.set_sync_debug_mode("default")
