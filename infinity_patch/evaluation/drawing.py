"""Pictures with the bits they are made of, as an evaluation compares them.

Knows the pipeline; nothing of measures or files.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from scalekv.infinity_patch.asked.request import Request
from scalekv.infinity_patch.asked.settled import Settled
from scalekv.infinity_patch.generation.pipeline import generate
from scalekv.infinity_patch.loading.loader import Pipeline


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


def draw_with_bits(pipeline: Pipeline, request: Request | Settled) -> DrawnPicture:
    """The one picture of a request.

    Raises:
        UserError: a request that cannot be fulfilled.
    """
    start = time.perf_counter()
    found: dict[int, Tensor] = {}
    (picture,) = generate(
        pipeline, request, on_bits=lambda _, scale, bits: found.update({scale: bits})
    )
    return DrawnPicture(
        picture=np.asarray(picture.image),
        bits=[found[scale][0].cpu() for scale in sorted(found)],
        cache=picture.cache,
        seconds=time.perf_counter() - start,
    )
