"""Pictures with the bits they are made of, as an evaluation compares them.

Knows the pipeline; nothing of measures or files.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from scalekv.infinity_patch import Pipeline, Request, generate
from scalekv.infinity_patch.files.hashes import quick_hash
from scalekv.infinity_patch.files.hub import model_files
from scalekv.infinity_patch.model.sampling import BitSampler
from scripts.evaluate.measures import Pixels


@dataclass(frozen=True)
class CacheVariant:
    """A way to hold the cache; kv_dtype "auto" holds what attention computes with."""

    policy: str
    budget: str
    kv_dtype: str = "auto"

    @property
    def folder(self) -> str:
        """A file name for it."""
        if self.policy == "full" and self.kv_dtype == "auto":
            return "full"
        kept = "" if self.kv_dtype == "auto" else f"-{self.kv_dtype}"
        name, _, _ = self.policy.partition(":")
        return f"{name}-{Path(self.budget).name.rstrip('%')}{kept}"


FULL = CacheVariant("full", "full")


def variants(
    policies: Sequence[str], budgets: Sequence[str], kv_dtypes: Sequence[str] = ("auto",)
) -> list[CacheVariant]:
    """Every policy at every budget in every dtype; the full cache, which knows no budget, once."""
    chosen = (
        CacheVariant(p, "full" if p == "full" else b, kv)
        for p, b, kv in product(policies, budgets, kv_dtypes)
    )
    return list(dict.fromkeys(chosen))


def request_for(
    prompt: str, seed: int, variant: CacheVariant, ratio: str = "1:1", pixels: str | None = None
) -> Request:
    """One picture under a variant."""
    budget = None if variant.policy == "full" else variant.budget
    return Request(
        (prompt,), policy=variant.policy, budget=budget, kv_dtype=variant.kv_dtype, seed=seed,
        ratio=ratio, pixels=pixels, truncate=True,
    )  # fmt: skip


def weights_of(pipeline: Pipeline) -> dict[str, str]:
    """What tells a pipeline's weights from others, per file or folder of shards."""
    paths = model_files(pipeline.preset, pipeline.weights_dir)
    return {path.name: quick_hash(path) for path in (paths.transformer, paths.vae)}


@dataclass(frozen=True)
class DrawnPicture:
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


def draw(pipeline: Pipeline, request: Request) -> DrawnPicture:
    """The one picture of a request.

    Raises:
        UserError: a request that cannot be fulfilled.
    """
    start = time.perf_counter()
    with recorded_bits() as record:
        (picture,) = generate(pipeline, request)
    return DrawnPicture(
        picture=np.asarray(picture.image),
        bits=[bits[0].cpu() for bits in record],
        cache=picture.cache,
        seconds=time.perf_counter() - start,
    )
