"""The built-in model in fp32, once for all of these tests, and how it draws."""

from __future__ import annotations

import pytest

from scalekv.infinity_patch import Pipeline, load
from scalekv.infinity_patch.asked.settled import Settled
from scalekv.infinity_patch.generation.pipeline import settled_on
from scalekv.infinity_patch.selftest.parts import request_of


@pytest.fixture(scope="package")
def pipeline() -> Pipeline:
    return load("emoji", dtype="fp32", device="cpu")


@pytest.fixture(scope="package")
def settled(pipeline: Pipeline) -> Settled:
    """A request for one picture with the full cache."""
    return settled_on(pipeline, request_of(["a frog"], None, "1:1", 0))
