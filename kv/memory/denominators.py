"""What a cache takes when nothing is dropped: what held bytes can be a share of. Pure
arithmetic."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import sqrt
from typing import Any

from scalekv.kv.memory.predicted import CacheShape
from scalekv.kv.schedule import Schedule

OFFICIAL_K_BYTES, OFFICIAL_V_BYTES = 4, 2
"""Of one element in the published code, which caches k in float32 and v in bfloat16."""


@dataclass(frozen=True)
class Uncompressed:
    """A full cache.

    Attributes:
        name: which one, in words.
        official: with the published code's dtypes instead of those of the run.
        last_scale: whether the last scale, which no later one reads, is counted.
        bytes: of its k and v.
    """

    name: str
    official: bool
    last_scale: bool
    bytes: int

    def to_dict(self, held_bytes: int) -> dict[str, Any]:
        """As plain JSON values, with the share of it that `held_bytes` are."""
        return {
            "name": self.name,
            "official": self.official,
            "last_scale": self.last_scale,
            "bytes": self.bytes,
            "ratio": held_bytes / self.bytes if self.bytes else 0.0,
        }


def uncompressed(schedule: Schedule, shape: CacheShape) -> tuple[Uncompressed, ...]:
    """The four full caches: the dtypes of `shape` and the published code's, each without and
    with the last scale."""
    official = replace(shape, k_bytes=OFFICIAL_K_BYTES, v_bytes=OFFICIAL_V_BYTES)
    return tuple(
        Uncompressed(
            f"{dtypes}, {scales}",
            which is official,
            last_scale,
            which.full_bytes(schedule, last_scale=last_scale),
        )
        for dtypes, which in (
            ("same dtype", shape),
            ("published code's dtypes, k float32 and v bfloat16", official),
        )
        for scales, last_scale in (("history", False), ("all scales", True))
    )


MEANING = (
    "In the worst case any algorithm that computes this attention, even approximately, needs "
    "memory of the order of n² d bits per head and layer (arXiv 2503.14881, for d at least of the "
    "order of log n); the constant is not known, so the theorem forbids no particular budget: it "
    "says that a cache far below n² d lives off structure, such as sparsity, that real attention "
    "has and the worst case lacks."
)


@dataclass(frozen=True)
class LowerBound:
    """The unit in which the theorem measures memory, for one head of one layer.

    Attributes:
        tokens: of the last map, n² where it is a square of side n.
        width: d, of one head's keys and values.
    """

    tokens: int
    width: int

    @classmethod
    def of(cls, schedule: Schedule, head_dim: int) -> LowerBound:
        """For pictures of a schedule."""
        return cls(schedule.tokens[-1], head_dim)

    @property
    def side(self) -> float:
        """n: the side of a square map of as many tokens."""
        return sqrt(self.tokens)

    @property
    def unit_bits(self) -> int:
        """n² d, in bits."""
        return self.tokens * self.width

    def bits_per_unit(self, held_bytes: int, places: int) -> float:
        """How many bits are held per bit of n² d.

        Args:
            held_bytes: in all places together.
            places: heads, of all layers and sequences, that hold them.
        """
        return 8 * held_bytes / (places * self.unit_bits)

    def to_dict(self, held_bytes: int, places: int) -> dict[str, Any]:
        """Everything as plain JSON values, with what is held per head, layer and sequence."""
        return {
            "n": self.side,
            "d": self.width,
            "unit_bits": self.unit_bits,
            "held_bits": 8 * held_bytes / places,
            "held_bits_per_unit": self.bits_per_unit(held_bytes, places),
            "meaning": MEANING,
        }
