"""`scalekv inspect`: one picture, many, and those that say nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Outcome, StandIn

Program = Callable[..., Outcome]


@pytest.fixture
def pictures(scalekv: Program, stand_in: StandIn) -> list[str]:
    done = [scalekv("generate", "an owl", "-s", str(n), "--format", f) for n, f in FORMATS]
    return [one.out.strip() for one in done]


FORMATS = [(1, "png"), (2, "jpg"), (3, "webp")]


def test_one(scalekv: Program, pictures: list[str]) -> None:
    for (seed, _), picture in zip(FORMATS, pictures, strict=True):
        done = scalekv("inspect", picture)
        assert done.code == 0
        assert done.out.startswith("picture")
        assert json.loads(scalekv("inspect", picture, "--json").out)["settings"]["seed"] == seed


def test_many(scalekv: Program, pictures: list[str]) -> None:
    done = scalekv("inspect", *pictures)
    assert [line for line in done.out.splitlines() if line.startswith("out/")] == pictures
    assert done.out.count("\n\n") == 2
    found = json.loads(scalekv("inspect", *pictures, "--format", "json").out)
    assert [one["settings"]["seed"] for one in found] == [1, 2, 3]
    assert [one["file"] for one in found] == pictures
    assert json.loads(scalekv("inspect", *pictures, "--json").out) == found
    lines = scalekv("inspect", *pictures, "--format", "jsonl").out.splitlines()
    assert [json.loads(line) for line in lines] == found
    assert isinstance(json.loads(scalekv("inspect", pictures[0], "--format", "json").out), list)


def test_some_say_nothing(scalekv: Program, pictures: list[str]) -> None:
    Path("x.png").write_text("no picture")
    done = scalekv("inspect", pictures[0], "x.png", "--format", "json")
    assert done.code == 1
    assert "cannot read x.png: it is no picture" in done.err
    assert "1 of 2 files say nothing" in done.err
    found = json.loads(done.out)
    assert [set(one) & {"error", "settings"} for one in found] == [{"settings"}, {"error"}]
    assert scalekv("inspect", "x.png").code == 2
