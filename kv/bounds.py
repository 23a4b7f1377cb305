"""The lower bound on the memory of visual autoregressive attention, as arithmetic beside what a
cache holds (arXiv 2503.14881). Knows numbers only."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import Any

from scalekv.kv.schedule import Schedule

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
