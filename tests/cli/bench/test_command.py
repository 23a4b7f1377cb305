"""`scalekv bench`: turns, figures and refusals with a stand-in; once with the built-in model."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from scalekv.cli import engine
from scalekv.cli.bench import run as benchmark
from scalekv.infinity_patch.asked.settled import Settled
from scalekv.infinity_patch.files.hub import BUILT_IN
from scalekv.infinity_patch.machine.gpus import Gpu
from tests.cli.conftest import Outcome, StandIn

Program = Callable[..., Outcome]


@pytest.fixture(autouse=True)
def quiet_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "busy", lambda _: [])


@pytest.fixture
def measured(stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """The stand-in with counters of memory."""
    monkeypatch.setattr(engine, "forget_peaks", lambda _: None)
    monkeypatch.setattr(engine, "highest_peaks", lambda _: {"resident_peak_bytes": 5 << 20})
    monkeypatch.setattr(engine, "machine", lambda _: {"processor": "P", "cores": 2})
    return stand_in


def test_sides_take_turns(scalekv: Program, measured: StandIn) -> None:
    done = scalekv("bench", "--rounds", "3", "--batch", "1,4", "--budget", "20%")
    assert done.code == 0, done.err
    assert len(measured.loaded) == 1
    sides = [(r.policy, r.num_images, r.batch_size) for r in measured.requests]
    full, other = ("full", 1, 1), ("scalekv", 1, 1)
    assert sides[:8] == [other, full, full, other, other, full, full, other]
    assert {side[1:] for side in sides[8:]} == {(4, 4)}
    assert [r.reproducible for r in measured.requests] == [True] * 8 + [False] * 8
    title = "emoji on P, 2 cores, float32; 128x128 pixels; scalekv 20%; medians of 3 rounds\n"
    assert done.out.startswith(title)
    rows = [line.split() for line in done.out.splitlines()[2:]]
    assert [row[0] for row in rows] == ["1", "20%", "4", "20%"]


def test_one_line_of_json(scalekv: Program, measured: StandIn) -> None:
    done = scalekv("bench", "--json", "--quiet", "--warmup", "0", "--rounds", "2")
    assert (done.code, done.err) == (0, "")
    assert done.out.count("\n") == 1
    facts = json.loads(done.out)
    (row,) = facts["batches"]
    assert len(measured.requests) == 4
    assert row["size"] == 1
    full, other = row["full"], row["compressed"]
    assert (full["label"], other["label"]) == ("full", "10%")
    assert full["resident_peak_bytes"] == 5 << 20
    expected = full["seconds"]["median"] / other["seconds"]["median"]
    assert row["speedup"]["of_medians"] == pytest.approx(expected, rel=0.01)
    assert row["speedup"]["least"] <= row["speedup"]["most"]
    assert "at once" in scalekv("bench", "--json").err


def test_a_side_that_does_not_fit(
    scalekv: Program, measured: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = engine.generate

    def generate(pipeline: Any, settled: Settled, *told: Any) -> Iterator[Any]:
        if settled.policy == "full" and settled.together > 1:
            told[-1](settled.together // 2)
        yield from draw(pipeline, settled, *told)

    monkeypatch.setattr(engine, "generate", generate)
    done = scalekv("bench", "--batch", "2", "--rounds", "2", "--json")
    assert done.code == 0, done.err
    (row,) = json.loads(done.out)["batches"]
    assert (row["full"]["fits"], row["compressed"]["fits"]) == (False, True)
    assert row["compressed"]["pictures_per_second"] > 0
    assert "speedup" not in row
    assert "does not fit" in done.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--budget", "full"], ["against itself", "--budget 10%"]),
        (["--batch", "0"], ["--batch-size 1,2,4,8"]),
        (["--batch", "1,x"], ["'1,x'"]),
        (["--rounds", "0"], ["--rounds"]),
        (["--budget", "150%"], ["150%"]),
    ],
)
def test_refusals(
    scalekv: Program, measured: StandIn, arguments: list[str], words: list[str]
) -> None:
    done = scalekv("bench", *arguments)
    assert (done.code, measured.loaded) == (2, [])
    for word in words:
        assert word in done.err


def test_a_busy_machine(
    scalekv: Program, measured: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "busy", lambda _: ["a load of 3.00 a core"])
    done = scalekv("bench", "--fail-on-busy", "--json")
    assert (done.code, measured.loaded) == (2, [])
    assert json.loads(done.err)["error"]["kind"] == "busy"
    done = scalekv("bench", "--json")
    assert done.code == 0
    assert json.loads(done.out)["disturbed_by"] == ["a load of 3.00 a core"]
    assert "other work disturbs" in done.err


def test_ctrl_c(scalekv: Program, measured: StandIn) -> None:
    measured.fail_at, measured.error = 0, KeyboardInterrupt()
    done = scalekv("bench")
    assert (done.code, done.out) == (130, "")
    assert measured.closed


def test_what_counts_as_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr("os.getloadavg", lambda: (0.0, 9.0, 9.0))
    gpus = {"cuda": Gpu("A", "1", 8, 8, 0.0), "cuda:1": Gpu("B", "1", 8, 8, 0.9)}
    monkeypatch.setattr("scalekv.infinity_patch.machine.gpus.gpu_of", gpus.get)
    assert benchmark.busy("cuda") == []
    assert benchmark.busy("cpu") == []
    assert benchmark.busy("cuda:1") == ["the GPU is 90% busy"]
    assert benchmark.busy("auto") == []
    monkeypatch.setattr("os.getloadavg", lambda: (99.0, 0.0, 0.0))
    assert "load" in benchmark.busy("cpu")[0]


@pytest.mark.skipif(
    not (BUILT_IN / "emoji" / "transformer.safetensors").exists(),
    reason="the built-in model's weights are not here",
)
def test_the_real_model(scalekv: Program) -> None:
    done = scalekv("bench", "--rounds", "1", "--warmup", "0", "--batch", "2", "--json", "--quiet")
    assert done.code == 0, done.err
    (row,) = json.loads(done.out)["batches"]
    held = [row[side]["cache_held_peak_bytes"] for side in ("full", "compressed")]
    assert held[1] < held[0] / 5
    assert row["full"]["resident_peak_bytes"] > 50 << 20
    assert not list(Path().iterdir())
