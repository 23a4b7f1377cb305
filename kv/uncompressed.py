"""What a cache takes when nothing is dropped: the denominators a share of it can have. Pure
arithmetic."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from scalekv.kv.memory import CacheShape
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
        Uncompressed(f"{dtypes}, {scales}", which is official, last_scale, which.bytes_of(tokens))
        for dtypes, which in (
            ("same dtype", shape),
            ("published code's dtypes, k float32 and v bfloat16", official),
        )
        for scales, last_scale, tokens in (
            ("history", False, schedule.history),
            ("all scales", True, schedule.total),
        )
    )
