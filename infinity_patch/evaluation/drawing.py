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
import numpy.typing as npt
from torch import Tensor

from scalekv.infinity_patch.asked.request import Request
from scalekv.infinity_patch.asked.settled import Settled
from scalekv.infinity_patch.generation.pipeline import generate
from scalekv.infinity_patch.loading.loader import Pipeline
from scalekv.infinity_patch.model.sampling import BitSampler


@dataclass(frozen=True)
class DrawnPicture:
    """One generated picture.

    picture: (H, W, 3) uint8; bits: per scale (L, d) uint8; cache: the ledger of its caches;
    seconds: wall time of the whole call.
    """

    picture: npt.NDArray[np.uint8]
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


def draw_with_bits(pipeline: Pipeline, request: Request | Settled) -> DrawnPicture:
    """The one picture of a request.

    Raises:
        UserError: a request that cannot be fulfilled.
    """
    start = time.perf_counter()
    with recorded_bits() as record:
        # scales that are replayed as they were recorded ask no sampler; these are computed
        (picture,) = generate(pipeline, request, on_caches=lambda _picture, _caches: None)
    return DrawnPicture(
        picture=np.asarray(picture.image),
        bits=[bits[0].cpu() for bits in record],
        cache=picture.cache,
        seconds=time.perf_counter() - start,
    )
