"""One layer's cache: what it holds, where from, and that it owns it."""

from __future__ import annotations

import pytest
import torch

from scalekv.kv.cache import LayerCache


def made(tokens: int, batch: int = 2, heads: int = 3, dim: int = 4) -> torch.Tensor:
    """(B, H, T, D) whose values differ everywhere."""
    count = batch * heads * tokens * dim
    return torch.arange(count, dtype=torch.float32).view(batch, heads, tokens, dim)


def slots_of(*rows: list[int]) -> torch.Tensor:
    """(2, 3, n): the rows for the heads of both sequences, the second sequence's reversed."""
    return torch.tensor([[*rows], [*reversed(rows)]])


def test_an_empty_cache() -> None:
    cache = LayerCache()
    assert (cache.tokens, cache.nbytes, cache.index_nbytes) == (0, 0, 0)
    assert cache.kept.shape == (0, 0)
    assert cache.k is cache.v is cache.positions is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bytes_are_what_the_tensors_occupy(dtype: torch.dtype) -> None:
    cache = LayerCache()
    cache.keep(made(5).to(dtype), made(5).to(dtype), None)
    assert cache.nbytes == 2 * 2 * 3 * 5 * 4 * dtype.itemsize
    assert cache.index_nbytes == 0
    cache.keep(made(5).to(dtype), made(5).to(dtype), slots_of([0, 1], [1, 2], [3, 4]))
    assert cache.nbytes == 2 * 2 * 3 * 2 * 4 * dtype.itemsize
    assert cache.index_nbytes == 2 * 3 * 2 * 4
    assert cache.kept.tolist() == [[2] * 3] * 2


def test_the_chosen_tokens_are_held_per_sequence_and_head() -> None:
    cache = LayerCache()
    k, v, slots = made(5), -made(5), slots_of([0, 1], [1, 4], [2, 3])
    cache.keep(k, v, slots)
    index = slots[..., None].expand(-1, -1, -1, 4)
    assert cache.k is not None
    assert cache.v is not None
    assert torch.equal(cache.k, k.gather(2, index))
    assert torch.equal(cache.v, v.gather(2, index))
    assert cache.positions is not None
    assert torch.equal(cache.positions, slots.int())


def test_positions_follow_tokens_through_several_scales() -> None:
    cache = LayerCache()
    cache.keep(made(3), made(3), None)
    assert cache.positions_with(2) is None
    cache.keep(made(5), made(5), slots_of([0, 4], [1, 3], [2, 4]))
    joined = cache.positions_with(3)
    assert joined is not None
    assert joined[0].tolist() == [[0, 4, 5, 6, 7], [1, 3, 5, 6, 7], [2, 4, 5, 6, 7]]
    cache.keep(made(5), made(5), slots_of([0, 2], [1, 4], [3, 4]))
    assert cache.positions is not None
    assert cache.positions[0].tolist() == [[0, 5], [3, 7], [6, 7]]
    assert cache.positions[1].tolist() == [[6, 7], [3, 7], [0, 5]]
    cache.keep(made(4), made(4), None)
    assert cache.positions[0].tolist() == [[0, 5, 8, 9], [3, 7, 8, 9], [6, 7, 8, 9]]
    assert cache.seen == 10


def test_what_is_held_is_a_copy() -> None:
    cache = LayerCache()
    k, v = made(3), made(3)
    cache.keep(k, v, None)
    k.zero_()
    v.zero_()
    assert cache.k is not None
    assert torch.equal(cache.k, made(3))
    k_out, v_out = torch.empty(2, 3, 3, 4), torch.empty(2, 3, 3, 4)
    cache.copy_to(k_out, v_out)
    assert torch.equal(v_out, made(3))


def test_a_view_is_held_without_the_rest_of_its_storage() -> None:
    cache = LayerCache()
    cache.keep(made(9)[:, :, :2], made(9)[:, :, :2], None)
    assert cache.nbytes == 2 * 2 * 3 * 2 * 4 * 4


def test_reset_frees_everything() -> None:
    cache = LayerCache()
    cache.keep(made(5), made(5), slots_of([0], [1], [2]))
    cache.reset()
    assert (cache.tokens, cache.seen, cache.nbytes, cache.index_nbytes) == (0, 0, 0, 0)
    assert cache.positions is None
