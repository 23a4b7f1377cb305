"""One layer's cache: what it holds, where from, in which memory, and that it owns it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from scalekv.kv.caches.held import HeldFormat, Part
from scalekv.kv.caches.layer import Choice, LayerCache
from scalekv.kv.precision import PRECISIONS
from scalekv.kv.schedule import Schedule

FORM = HeldFormat(PRECISIONS["fp32"], scales=3)
EIGHT = HeldFormat(PRECISIONS["int8"], scales=3)
BATCH, HEADS, DIM = 2, 3, 4


def made(tokens: int, first: int = 0) -> Tensor:
    """(B, H, T, D) whose values differ everywhere; token t of all is the same whatever T."""
    base = torch.arange(BATCH * HEADS).view(BATCH, HEADS, 1, 1) * 1000.0
    places = torch.arange(first, first + tokens).view(1, 1, tokens, 1) * DIM
    return base + places + torch.arange(DIM)


MAPS = Schedule.parse("2x3 1x5 2x2 1x1")


def begun(form: HeldFormat = FORM) -> LayerCache:
    cache = LayerCache()
    cache.begin(made(1), MAPS, form)
    return cache


def keep(
    cache: LayerCache,
    new: int,
    slots: Tensor | None,
    *,
    scale: int = 0,
    room: int = 0,
    heads: Sequence[tuple[int, ...]] | None = None,
    several: Sequence[Tensor | None] = (),
    k: Tensor | None = None,
) -> None:
    """Keeps `slots` of what is held and `new` tokens more, in all heads, or `several` of `heads`,
    which then are all of a single group."""
    group = cache.groups[0]
    held = group.tokens
    joined = torch.empty(2, BATCH, len(group.heads), held + new, DIM)
    if held:
        cache.copy_to(group, joined[:, :, :, :held])
    joined[0, :, :, held:] = made(new, cache.seen) if k is None else k
    joined[1, :, :, held:] = -joined[0, :, :, held:]
    positions = group.positions_with(cache.seen, new, MAPS.total, joined[0])
    choices = []
    for subset, chosen in zip(heads or [group.heads], several or [slots], strict=True):
        rows = torch.tensor([group.heads.index(head) for head in subset])
        part = Part(joined[:, :, rows], held, scale, chosen, rows)
        if heads is None:
            part = Part(joined, held, scale, chosen, None)
        mine = None if positions is None else positions[:, rows]
        fits = max(room, part.tokens)
        choices.append(Choice(0, subset, part.rows, part, fits, mine, {}))
    cache.keep(choices)


def held(cache: LayerCache, number: int = 0) -> tuple[Tensor, Tensor]:
    """k and v of a group."""
    group = cache.groups[number]
    kv = torch.empty(2, BATCH, len(group.heads), group.tokens, DIM)
    cache.copy_to(group, kv)
    return kv[0], kv[1]


def slots_of(*rows: list[int]) -> Tensor:
    """(2, 3, n): the rows for the heads of both sequences, the second sequence's reversed."""
    return torch.tensor([[*rows], [*reversed(rows)]])


def test_an_empty_cache() -> None:
    cache = LayerCache()
    assert (cache.tokens, cache.nbytes, cache.index_nbytes) == (0, 0, 0)
    assert cache.kept.shape == (0, 0)
    assert cache.positions is None
    cache = begun()
    assert (cache.tokens, cache.nbytes, cache.index_nbytes) == (0, 0, 0)
    assert cache.kept.tolist() == [[0] * 3] * 2


@pytest.mark.parametrize("name", ["fp32", "bf16"])
def test_bytes_are_what_the_tensors_occupy(name: str) -> None:
    form = HeldFormat(PRECISIONS[name], scales=3)
    size = PRECISIONS[name].bits // 8
    cache = begun(form)
    keep(cache, 5, None)
    assert cache.nbytes == 2 * BATCH * HEADS * 5 * DIM * size
    assert cache.index_nbytes == 0
    keep(cache, 1, slots_of([0, 1], [1, 2], [3, 4]), scale=1)
    assert cache.nbytes == 2 * BATCH * HEADS * 2 * DIM * size
    assert cache.index_nbytes == BATCH * HEADS * 2 * 4
    assert cache.kept.tolist() == [[2] * 3] * 2


def test_the_chosen_tokens_are_held_per_sequence_and_head() -> None:
    cache = begun()
    slots = slots_of([0, 1], [1, 4], [2, 3])
    keep(cache, 5, slots)
    index = slots[..., None].expand(-1, -1, -1, DIM)
    k, v = held(cache)
    assert torch.equal(k, made(5).gather(2, index))
    assert torch.equal(v, -made(5).gather(2, index))
    assert cache.positions is not None
    assert torch.equal(cache.positions, slots.int())


def test_positions_follow_tokens_through_several_scales() -> None:
    cache = begun()
    keep(cache, 3, None)
    assert cache.groups[0].positions_with(3, 2, MAPS.total, made(1)) is None
    keep(cache, 2, slots_of([0, 4], [1, 3], [2, 4]))
    joined = cache.groups[0].positions_with(5, 3, MAPS.total, made(1))
    assert joined is not None
    assert joined[0].tolist() == [[0, 4, 5, 6, 7], [1, 3, 5, 6, 7], [2, 4, 5, 6, 7]]
    keep(cache, 3, slots_of([0, 2], [1, 4], [3, 4]))
    assert cache.positions is not None
    assert cache.positions[0].tolist() == [[0, 5], [3, 7], [6, 7]]
    assert cache.positions[1].tolist() == [[6, 7], [3, 7], [0, 5]]
    keep(cache, 2, None)
    assert cache.positions[0].tolist() == [[0, 5, 8, 9], [3, 7, 8, 9], [6, 7, 8, 9]]
    assert cache.seen == 10
    index = cache.positions[..., None].long().expand(-1, -1, -1, DIM)
    assert torch.equal(held(cache)[0], made(10).gather(2, index))


def test_what_is_held_is_a_copy() -> None:
    cache = begun()
    k = made(3)
    keep(cache, 3, None, k=k)
    k.zero_()
    assert torch.equal(held(cache)[0], made(3))


def test_room_is_made_once_and_written_in_place() -> None:
    cache = begun()
    keep(cache, 3, None, room=6)
    first = cache.groups[0].held
    assert first is not None
    assert cache.nbytes == 2 * BATCH * HEADS * 6 * DIM * 4
    keep(cache, 3, None, room=6)
    assert cache.groups[0].held is first
    assert torch.equal(held(cache)[0], made(6))
    keep(cache, 2, slots_of([0, 1, 2, 3, 4, 7], [2, 3, 4, 5, 6, 7], [0, 1, 2, 3, 4, 5]), room=6)
    assert cache.groups[0].held is first
    assert held(cache)[0][0, 1].tolist() == made(8)[0, 1, 2:].tolist()
    keep(cache, 1, slots_of([0, 1], [1, 2], [5, 6]))
    assert cache.groups[0].held is not first
    assert cache.nbytes == 2 * BATCH * HEADS * 2 * DIM * 4


def test_heads_that_hold_unequally_lie_packed_and_one_that_holds_nothing_costs_nothing() -> None:
    cache = begun()
    keep(cache, 3, None)
    none = torch.empty(2, 1, 0, dtype=torch.int64)
    two = torch.tensor([[[0, 4]], [[1, 2]]])
    keep(cache, 2, None, scale=1, heads=[(0,), (1,), (2,)], several=[two, none, None])
    assert cache.kept.tolist() == [[2, 0, 5]] * 2
    assert cache.nbytes == 2 * BATCH * (2 + 5) * DIM * 4
    by_heads = {group.heads: group for group in cache.groups}
    assert by_heads[(1,)].held is None
    assert held(cache, cache.groups.index(by_heads[(2,)]))[0].equal(made(5)[:, 2:])
    k, v = held(cache, cache.groups.index(by_heads[(0,)]))
    assert torch.equal(k[0, 0], made(5)[0, 0, [0, 4]])
    assert torch.equal(v[1, 0], -made(5)[1, 0, [1, 2]])
    assert by_heads[(0,)].positions is not None
    assert by_heads[(0,)].positions.tolist() == [[[0, 4]], [[1, 2]]]


def test_heads_that_come_to_hold_equally_many_lie_together() -> None:
    """Head 2 before heads 0 and 1, as they came; positions, notes and tokens go with them."""
    cache = begun()
    two = torch.tensor([[[0, 4]] * 2, [[1, 2]] * 2])
    keep(cache, 5, None, heads=[(2,), (0, 1)], several=[two[:, :1], two])
    assert [group.heads for group in cache.groups] == [(2, 0, 1)]
    assert not cache.all_together
    assert torch.equal(held(cache)[0][0], made(5)[0][[2, 0, 1]][:, [0, 4]])
    assert torch.equal(cache.of(cache.groups[0], made(1)), made(1)[:, [2, 0, 1]])


@pytest.mark.parametrize("bits", [8, 4])
def test_tokens_are_quantised_once_when_they_come_in(bits: int) -> None:
    """What is held of a token stays the same to the bit through later scales, wherever it moves,
    and is within half a step of what came in."""
    cache = begun(HeldFormat(PRECISIONS[f"int{bits}"], scales=3))
    generator = torch.Generator().manual_seed(1)
    first, second, third = (
        torch.randn(BATCH, HEADS, tokens, DIM, generator=generator) for tokens in MAPS.tokens[:3]
    )
    keep(cache, 6, None, k=first, scale=0, room=8)
    k, v = held(cache)
    step = (first.amax(2, keepdim=True) - first.amin(2, keepdim=True)) / (2**bits - 1)
    assert ((k - first).abs() <= step / 2 + 2e-3).all()
    step = (first.amax(3, keepdim=True) - first.amin(3, keepdim=True)) / (2**bits - 1)
    assert ((v + first).abs() <= step / 2 + 2e-3).all()
    keep(cache, 5, slots_of([0, 2, 3, 8], [1, 5, 9, 10], [2, 3, 4, 5]), k=second, scale=1)
    moved_k, moved_v = held(cache)
    assert torch.equal(moved_k[0, 0, :3], k[0, 0, [0, 2, 3]])
    assert torch.equal(moved_v[1, 1, :2], v[1, 1, [1, 5]])
    assert not torch.equal(moved_k[0, 0, 3], second[0, 0, 2])
    keep(cache, 4, slots_of([0, 1, 3], [1, 2, 3], [0, 6, 7]), k=third, scale=2)
    again = held(cache)[0]
    assert torch.equal(again[0, 0], moved_k[0, 0, [0, 1, 3]])
    assert torch.equal(again[0, 2, :1], moved_k[0, 2, :1])
    assert torch.equal(again[1, 2], moved_k[1, 2, [0, 1, 3]])


def test_quantised_heads_take_their_channels_along() -> None:
    cache = begun(EIGHT)
    first = torch.randn(BATCH, HEADS, 6, DIM, generator=torch.Generator().manual_seed(1))
    keep(cache, 6, None, k=first)
    before = held(cache)[0]
    two = torch.tensor([[[0, 4]], [[1, 2]]])
    keep(cache, 5, None, scale=1, heads=[(1,), (0,), (2,)], several=[two, None, two])
    by_heads = {group.heads: number for number, group in enumerate(cache.groups)}
    assert set(by_heads) == {(1, 2), (0,)}
    ours = held(cache, by_heads[(1, 2)])[0]
    assert torch.equal(ours[0], before[0, 1:][:, [0, 4]])
    assert torch.equal(held(cache, by_heads[(0,)])[0][:, :, :6], before[:, :1])
    precision = PRECISIONS["int8"]
    assert cache.nbytes == BATCH * precision.held_bytes(DIM, 3, [11, 2, 2])


def test_reset_frees_everything() -> None:
    cache = begun()
    keep(cache, 5, slots_of([0], [1], [2]))
    cache.reset()
    assert (cache.tokens, cache.seen, cache.nbytes, cache.index_nbytes) == (0, 0, 0, 0)
    assert cache.positions is None
