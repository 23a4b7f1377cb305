"""Pictures with the bits they are made of, as an evaluation compares them.

Knows the pipeline; nothing of measures or files.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from scalekv.infinity_patch import Pipeline, Request, generate
from scalekv.infinity_patch.sampling import BitSampler
from scripts.eval_measures import Pixels


@dataclass(frozen=True)
class Drawn:
    """One generated picture.

    bits: per scale (L, d) uint8; held_bytes: the caches' most between two scales; seconds: wall
    time of the whole call.
    """

    picture: Pixels
    bits: list[Tensor]
    cache: dict[str, Any]
    seconds: float


@contextmanager
def recorded_bits() -> Iterator[list[Tensor]]:
    """What every sampler draws inside the block, (B, L, d) uint8 a call, in the order of calls."""
    record: list[Tensor] = []
    sample = BitSampler.__call__

    def recording(self: BitSampler, scale: int, logits: Tensor) -> Tensor:
        bits = sample(self, scale, logits)
        record.append(bits)
        return bits

    BitSampler.__call__ = recording  # type: ignore[method-assign]
    try:
        yield record
    finally:
        BitSampler.__call__ = sample  # type: ignore[method-assign]


def draw(pipeline: Pipeline, request: Request) -> Drawn:
    """The one picture of a request.

    Raises:
        UserError: a request that cannot be fulfilled.
    """
    start = time.perf_counter()
    with recorded_bits() as record:
        (picture,) = generate(pipeline, request)
    return Drawn(
        picture=np.asarray(picture.image),
        bits=[bits[0].cpu() for bits in record],
        cache=picture.cache,
        seconds=time.perf_counter() - start,
    )
