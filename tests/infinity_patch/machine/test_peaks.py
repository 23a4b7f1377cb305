"""Peaks of stages: what a stage allocated and freed is its own, not the next one's."""

from __future__ import annotations

import mmap
import threading
from pathlib import Path

import pytest
import torch

from scalekv.infinity_patch import generate, load
from scalekv.infinity_patch.loading.placement import Placement
from scalekv.infinity_patch.machine import peaks as stages
from scalekv.infinity_patch.machine.peaks import Stages

CPU = torch.device("cpu")
SIZE = 64 << 20

needs_proc = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="no /proc here: peaks cannot be told apart"
)


def fresh(size: int) -> mmap.mmap:
    """Memory that the process did not hold before: an allocator may have some left from earlier."""
    pages = mmap.mmap(-1, size)
    torch.frombuffer(pages, dtype=torch.uint8).fill_(1)
    return pages


@pytest.fixture(params=["kernel", "sampled"])
def measured(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Stages:
    counter = {"kernel": stages._KernelPeak, "sampled": stages._SampledPeak}[request.param]()
    monkeypatch.setattr(stages, "_process_counter", lambda: counter)
    return Stages(CPU)


@needs_proc
def test_a_peak_belongs_to_its_stage(measured: Stages) -> None:
    with measured.stage("decode"):
        pass
    with measured.stage("load"):
        held = fresh(SIZE)
        if "sampled" in measured.sources[0]:
            threading.Event().wait(0.1)
        del held
    with measured.stage("scales"):
        pass
    peaks = {name: stage["resident_peak_bytes"] for name, stage in measured.peaks().items()}
    assert list(peaks) == ["load", "scales", "decode"]
    for other in ("scales", "decode"):
        assert peaks["load"] - peaks[other] > 0.9 * SIZE, peaks
    assert measured.highest() == {"resident_peak_bytes": peaks["load"]}


@needs_proc
def test_a_stage_inside_another_interrupts_it() -> None:
    measured = Stages(CPU)
    with measured.stage("encode"):
        with measured.stage("load"):
            fresh(SIZE)
        after = measured.peaks()["load"]["resident_peak_bytes"]
    peaks = measured.peaks()
    assert peaks["load"]["resident_peak_bytes"] == after
    assert after - peaks["encode"]["resident_peak_bytes"] > 0.9 * SIZE


def test_weights_that_go_are_not_counted_where_they_were_not() -> None:
    pipeline = load("emoji", device="cpu", placement=Placement(keep_text_encoder=False))
    next(generate(pipeline, "a red apple"))
    weights = pipeline.stages.weights()
    assert weights["encode"] == pipeline.weights_bytes
    assert weights["scales"] == weights["decode"] == {**pipeline.weights_bytes, "text_encoder": 0}


def test_a_failing_stage_is_counted_and_closed() -> None:
    measured = Stages(CPU)
    with pytest.raises(RuntimeError, match="out of memory"), measured.stage("scales"):
        raise RuntimeError("out of memory")
    assert list(measured.peaks()) == ["scales"]
    assert measured._open == []


def test_where_nothing_can_be_started_anew_the_source_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(stages, "_SELF", tmp_path)
    measured = Stages(CPU)
    with measured.stage("load"):
        pass
    assert "since the start of the process" in measured.sources[0]
    assert measured.peaks()["load"]["resident_peak_bytes"] > 1 << 20


def test_a_process_that_may_not_write_to_proc_is_sampled(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "status").write_text("VmRSS:\t   2048 kB\n")
    (tmp_path / "clear_refs").mkdir()  # writing fails, as for a file that is not ours
    monkeypatch.setattr(stages, "_SELF", tmp_path)
    measured = Stages(CPU)
    with measured.stage("load"):
        pass
    assert "sampled" in measured.sources[0]
    assert measured.peaks() == {"load": {"resident_peak_bytes": 2 << 20}}


def test_a_generation_goes_through_every_stage() -> None:
    pipeline = load("emoji", device="cpu")
    next(generate(pipeline, "a red apple"))
    gone_through = [stage for stage in stages.STAGES if stage != "record"]  # that is a device's
    assert list(pipeline.stages.peaks()) == gone_through
    weights = pipeline.stages.weights()
    assert weights["load"] == pipeline.weights_bytes
    assert weights["encode"] == pipeline.weights_bytes


@pytest.mark.gpu
def test_a_device_has_peaks_of_its_own() -> None:
    device = torch.device("cuda")
    measured = Stages(device)
    with measured.stage("load"):
        torch.ones(SIZE, dtype=torch.uint8, device=device)
    with measured.stage("scales"):
        pass
    peaks = measured.peaks()
    allocated = [peaks[name]["allocated_peak_bytes"] for name in ("load", "scales")]
    assert allocated[0] - allocated[1] >= SIZE
    assert peaks["load"]["reserved_peak_bytes"] >= allocated[0]
