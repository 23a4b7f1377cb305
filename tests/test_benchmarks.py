"""The benchmarks run, count what they say they count, and keep their columns in line."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F

from scripts.bench import generate as bench_generate
from scripts.bench import sides as benchmarking
from scripts.bench import transformer as bench_transformer
from scripts.bench.sides import Clock, PeakMemory, seconds_of, table


@pytest.fixture
def wall_clock() -> Iterator[None]:
    yield
    benchmarking.measure_by("wall")


def test_linear_calls_are_counted_from_their_tensors() -> None:
    clock = Clock()
    x, weight = torch.randn(2, 5, 8), torch.randn(16, 8)
    before = F.linear
    with clock.watching((F, "linear", "linear")):
        for _ in range(3):
            F.linear(x, weight)
    assert F.linear is before
    part = clock.parts["linear"]
    assert part.flops == 3 * 2 * 10 * 8 * 16
    assert part.bytes == 3 * 4 * (10 * 8 + 16 * 8 + 10 * 16)
    assert part.shapes == {((10, 8, 16), torch.float32): 3}


def test_inner_calls_belong_to_the_outer() -> None:
    class Work:
        def outer(self) -> None:
            self.inner()

        def inner(self) -> None:
            time.sleep(0.01)

    clock = Clock()
    with clock.watching((Work, "outer", "a"), (Work, "inner", "b")):
        Work().outer()
        Work().inner()
    assert clock.parts["a"].seconds >= 0.01
    assert 0.01 <= clock.parts["b"].seconds < 0.02 + clock.parts["a"].seconds


def test_slow_calls_are_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmarking, "PATIENCE", 0.0)
    calls = []
    seconds_of(lambda: calls.append(1), 50)
    assert len(calls) == 2  # a warm-up, and one


@pytest.mark.skipif(not PeakMemory().known, reason="the system does not say")
def test_peaks_are_forgotten() -> None:
    memory = PeakMemory()
    big = torch.ones(1 << 26, dtype=torch.uint8)
    del big
    memory.forget()
    assert memory.peak() - memory.now() < 1 << 25


def test_a_table_has_as_many_cells_everywhere() -> None:
    lines = table(["a", "b"], [["1", "2"], ["3", "4"]]).splitlines()
    assert {line.count("|") for line in lines} == {3}


def test_the_transformer_s_benchmark(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], wall_clock: None
) -> None:
    threads = torch.get_num_threads()
    command = "bench --model emoji --blocks 2 --pixels 0.06M --repeats 2 --clock cpu --ceilings"
    command += " --profile --side full --side scalekv:10%"
    monkeypatch.setattr(sys, "argv", command.split())
    monkeypatch.setattr(benchmarking, "PATIENCE", 0.0)
    try:
        bench_transformer.main()
    finally:
        torch.set_num_threads(threads)
    out = capsys.readouterr().out
    rows = [line.split("|") for line in out.splitlines() if line.startswith("| 0.06M")]
    assert len(rows) == 2 + 4
    full, compressed = rows[:2]
    assert float(full[4]) == float(full[6]) == 1.0
    assert 0.8 < float(compressed[6]) < 1.0  # fewer tokens are attended to
    assert "aten::" in out


def test_a_budget_in_bytes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    command = "bench --model emoji --blocks 1 --pixels 0.06M --side scalekv:1MiB"
    monkeypatch.setattr(sys, "argv", command.split())
    with pytest.raises(SystemExit, match="not bytes"):
        bench_transformer.main()


def test_the_benchmark_of_whole_pictures(wall_clock: None) -> None:
    threads = torch.get_num_threads()
    try:
        side, dtype, *rest = bench_generate.warm("emoji", "fp32", "scalekv:10%", 1, 1)
    finally:
        torch.set_num_threads(threads)
    assert (side, dtype) == ("scalekv:10%", "fp32")
    shares = [float(cell.rstrip("%")) for cell in rest[3:]]
    assert all(share > 0 for share in shares)
    assert sum(shares) == pytest.approx(100, abs=0.5)
