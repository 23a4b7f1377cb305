"""The lower bound's unit, and the denominators of a share, against figures worked out elsewhere."""

from __future__ import annotations

import pytest

from scalekv.configs.models import model_named
from scalekv.infinity_patch.schedules import schedule_for
from scalekv.kv.memory.denominators import LowerBound, uncompressed
from scalekv.kv.memory.predicted import CacheShape, full_cache_bytes

MEGAPIXEL = schedule_for("1:1", "1M")


@pytest.mark.parametrize(("kept", "megabits"), [(265, 1.09), (650, 2.66), (1300, 5.32)])
def test_bits_per_head_are_those_of_the_kept_tokens(kept: int, megabits: float) -> None:
    # n = 64 and d = 128 give 0.52 Mbit; kept tokens in bfloat16 2 * 128 * 16 bits each
    bound = LowerBound.of(MEGAPIXEL, 128)
    assert (bound.side, bound.unit_bits) == (64, 524288)
    held = CacheShape(32, 2, 16, 128, 2, 2).bytes_of(kept)
    values = bound.to_dict(held, places=32 * 2 * 16)
    assert values["held_bits"] / 1e6 == pytest.approx(megabits, abs=0.005)
    assert values["held_bits_per_unit"] == values["held_bits"] / 524288


def test_a_map_that_is_no_square_counts_its_tokens() -> None:
    bound = LowerBound.of(schedule_for("2:1", "1M"), 128)
    assert bound.unit_bits == 90 * 45 * 128
    assert bound.side == pytest.approx(63.6, abs=0.05)


@pytest.mark.parametrize(
    ("model", "official_history", "official_all", "same_history"),
    [("infinity-2b", 4.71, 7.71, 3.14), ("infinity-8b", 10.29, 16.86, 6.86)],
)
def test_full_caches_of_one_picture(
    model: str, official_history: float, official_all: float, same_history: float
) -> None:
    spec = model_named(model).transformer
    shape = CacheShape(spec.depth, 2, spec.heads, spec.head_dim, 2, 2)
    sizes = {(u.official, u.last_scale): u for u in uncompressed(MEGAPIXEL, shape)}
    gib = {key: round(u.bytes / 2**30, 2) for key, u in sizes.items()}
    assert gib[True, False] == official_history
    assert gib[True, True] == official_all
    assert gib[False, False] == same_history
    assert sizes[False, True].bytes == full_cache_bytes(
        MEGAPIXEL, spec.depth, 2, spec.heads, spec.head_dim, 2, include_last=True
    )
    half = sizes[False, False].bytes // 2
    assert sizes[False, False].to_dict(half)["ratio"] == 0.5
    assert len({u.name for u in sizes.values()}) == 4
