"""The benchmark of a GPU, as far as it goes without one."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from scalekv.configs.models import model_named
from scalekv.kv.budgets.asked import parse_budget, resolve
from scalekv.kv.coded import held
from scalekv.kv.schedule import Schedule
from scripts.bench import gpu, gpu_rows
from scripts.bench.bound import Bound, measure_bound

SMALL = Schedule.parse("1x1 2x2 4x4 6x6 8x8")


@pytest.mark.parametrize("budget", [None, "20%"])
def test_the_bound_goes_through_all_scales(budget: str | None) -> None:
    preset = model_named("emoji")
    depth = preset.transformer.depth
    asked = None if budget is None else resolve(parse_budget(budget), SMALL, depth, [0])
    bound = Bound(preset, SMALL, asked, 2, torch.float32, torch.device("cpu"))
    with torch.inference_mode():
        bits = bound.picture()
    assert bits.shape == (2, SMALL.tokens[-1], preset.tokenizer.token_bits)
    assert set(bits.unique().tolist()) == {0, 1}
    assert measure_bound(bound, 1)["eager"] > 0


def test_a_part_that_fails_or_comes_too_late_is_noted() -> None:
    def broken() -> None:
        raise RuntimeError("no such kernel\nand more")

    run = gpu.GpuRun("cpu", limit=60)
    run.part("good", 1, lambda: {"exit": 0})
    run.part("broken", 1, broken)
    run.part("late", 1000, broken)
    assert run.found["good"] == {"exit": 0}
    assert run.found["broken"] == {"failed": "RuntimeError: no such kernel"}
    assert "were left" in run.found["late"]["skipped"]


def test_programs_are_run_and_their_last_lines_kept() -> None:
    run = gpu.GpuRun("cpu", limit=60)
    found = run.program("-c", "print('a'); print('b'); raise SystemExit(3)")
    assert found == {"exit": 3, "lines": ["a", "b"]}
    assert gpu.missing(("json", "no_such_package")) == ["no_such_package"]


def test_without_a_device_nothing_is_done(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    monkeypatch.setattr(gpu, "importable", lambda: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main() == 2
    assert "no CUDA device" in capsys.readouterr().err


def test_the_table_has_a_line_a_row() -> None:
    rows: list[dict[str, Any]] = [
        {"side": "full", "batch": 1, "seconds": 0.5, "busy": 0.25, "kernels": 5000}
        | {"replayed": 0.4, "same": False, "peak": 2_000_000_000, "planned": 2_100_000_000},
        {"side": "coded:10%", "batch": 1, "seconds": 0.7, "replayed": 0.5},
        {"side": "scalekv:paper-10", "batch": 8, "failed": "out of memory"},
    ]
    found = {"m": rows, "bound of m": {"full": {"eager": 0.4, "graph": 0.3}}}
    _, _, *lines = gpu.short_table(found, ["m", "left out"]).splitlines()
    assert lines == [
        "| m | full | 1 | 0.500 | 0.400, other | 1.00 | 0.300 | 0.250 | 5000 | 2.00 | 2.10 |",
        "| m | coded:10% | 1 | 0.700 | 0.500 | 1.25 | - | - | - | - | - |",
        "| m | scalekv:paper-10 | 8 | - | - | - | - | - | - | - | - |",
    ]


def test_a_coded_cache_is_measured_by_kernels_and_by_torch() -> None:
    assert gpu.measured("paper-10", 1)[-2:] == ("coded:paper-10", "coded:paper-10 by torch")
    assert gpu.measured("paper-10", 4)[-1] == "coded:paper-10"
    cuda, preset = torch.device("cuda"), model_named("emoji")
    for side, by_kernels in zip(gpu.measured("20%", 1)[-2:], (True, False), strict=True):
        with gpu_rows.coding_as(side):
            assert held.by_kernels(cuda) == by_kernels
        assert gpu_rows.planned(preset, side, "0.06M", 1, 2) > 0
    assert held.by_kernels(cuda)


def test_what_it_names_is_there() -> None:
    for path in (*gpu.TESTS, *gpu.KERNELS, *gpu.PACKAGES):
        assert (Path(gpu.ROOT) / path).exists(), path
