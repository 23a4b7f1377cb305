"""The bits of a picture are those it is made of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from scalekv.infinity_patch import Pipeline, Request, load
from scalekv.infinity_patch.evaluation.drawing import DrawnPicture, draw_with_bits
from scalekv.infinity_patch.evaluation.kept import EvaluationFolder
from scalekv.infinity_patch.evaluation.variants import FULL_CACHE, CacheVariant
from scalekv.infinity_patch.generation.forced import force_bits
from scalekv.infinity_patch.generation.pipeline import settled_on
from scalekv.kv.errors import UserError


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return load("emoji")


def drawn(pipeline: Pipeline, seed: int = 0) -> DrawnPicture:
    return draw_with_bits(pipeline, Request(("a red apple",), policy="full", seed=seed))


def test_the_bits_are_those_the_picture_is_made_of(pipeline: Pipeline, tmp_path: Path) -> None:
    first = drawn(pipeline)
    assert [len(bits) for bits in first.bits] == [1, 4, 16, 36, 64, 144, 256]
    again, other = drawn(pipeline), drawn(pipeline, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(first.bits, again.bits, strict=True))
    assert not torch.equal(first.bits[-1], other.bits[-1])
    settled = settled_on(pipeline, Request(("a red apple",), policy="full"))
    own = force_bits(pipeline, settled, "a red apple", 0)  # what it draws, by another way
    assert all(torch.equal(a, b[0]) for a, b in zip(first.bits, own.bits, strict=True))

    folder = EvaluationFolder(tmp_path)
    folder.keep(FULL_CACHE, 7, first)
    kept = folder.full_bits(7)
    assert all(torch.equal(a, b) for a, b in zip(first.bits, kept, strict=True))
    assert np.array_equal(folder.picture(FULL_CACHE, 7), first.picture)


def test_what_is_gone_or_damaged_is_said(tmp_path: Path) -> None:
    folder = EvaluationFolder(tmp_path)
    path = folder.picture_path(CacheVariant("scalekv", "10%"), 0)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"no picture")
    with pytest.raises(UserError, match="gone, or damaged"):
        folder.picture(CacheVariant("scalekv", "10%"), 0)
    with pytest.raises(UserError, match="gone, or damaged"):
        folder.full_bits(0)
