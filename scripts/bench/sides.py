"""What the benchmarks share: where the time of a run goes, ceilings to hold it against, tables.

Counts what the called operations are given (shapes and bytes), never a formula of the model. Parts
are told apart on the CPU only, where a call has done its work when it returns.
"""

from __future__ import annotations

import platform
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor

from scalekv.infinity_patch.compute import memory as heap
from scalekv.infinity_patch.machine.peaks import process_bytes

PATIENCE = 3.0  # seconds after which a bare operation is not repeated

Shape = tuple[int, ...]

CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}
"""What tells the seconds: the clock on the wall, or the processor's work for this process, which on
a machine that others use too is the better measure of a run on one thread."""

_clock = ["wall"]


def now() -> float:
    """Seconds by the clock chosen."""
    return CLOCKS[_clock[0]]()


def measure_by(clock: str) -> None:
    """Choose a clock by its name in `CLOCKS`."""
    assert clock in CLOCKS, clock
    _clock[0] = clock


@dataclass
class Piece:
    """One kind of work: seconds, floating-point operations, bytes read and written, calls.

    shapes: how often each shape was called, with its dtype.
    """

    seconds: float = 0.0
    flops: int = 0
    bytes: int = 0
    shapes: Counter[tuple[Shape, torch.dtype]] = field(default_factory=Counter)


class Clock:
    """Adds up the time of wrapped functions by part; inner wrapped calls belong to the outer."""

    def __init__(self) -> None:
        self.parts: dict[str, Piece] = {}
        self._inside = False

    @contextmanager
    def watching(self, *watched: tuple[Any, str, str]) -> Iterator[None]:
        """Inside the block, calls of `(owner, attribute, part)` are timed and counted."""
        patches = [
            patch.object(owner, name, self._timed(getattr(owner, name), part))
            for owner, name, part in watched
        ]
        for p in patches:
            p.start()
        try:
            yield
        finally:
            for p in reversed(patches):
                p.stop()

    def _timed(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        part = self.parts.setdefault(name, Piece())

        def timed(*args: Any, **kwargs: Any) -> Any:
            if self._inside:
                return function(*args, **kwargs)
            self._inside = True
            start = now()
            try:
                out = function(*args, **kwargs)
            finally:
                part.seconds += now() - start
                self._inside = False
            _count(part, name, args, out)
            return out

        return timed


def _count(part: Piece, name: str, args: tuple[Any, ...], out: Any) -> None:
    tensors = [a for a in (*args, out) if isinstance(a, Tensor)]
    part.bytes += sum(t.numel() * t.element_size() for t in tensors)
    if name == "linear":
        x, weight = args[0], args[1]
        shape = (x.numel() // x.shape[-1], weight.shape[1], weight.shape[0])
        part.flops += 2 * shape[0] * shape[1] * shape[2]
        part.shapes[shape, weight.dtype] += 1
    elif name.endswith("attention"):
        (batch, heads, queries, dim), keys = args[0].shape, args[1].shape[2]
        part.flops += 4 * batch * heads * queries * keys * dim
        part.shapes[(batch, heads, queries, keys, dim), args[0].dtype] += 1


def seconds_of(run: Callable[[], Any], repeats: int = 5) -> float:
    """Median seconds of `run` after one warm-up call, with fewer repeats where it is slow."""
    run()
    taken: list[float] = []
    while not taken or (len(taken) < repeats and sum(taken) < PATIENCE):
        start = now()
        run()
        taken.append(now() - start)
    return statistics.median(taken)


def bare_linear(part: Piece, weights: Sequence[Tensor]) -> float:
    """Seconds the linear calls of a run take alone, on the run's own weights in turn."""
    total = 0.0
    for (shape, dtype), calls in part.shapes.items():
        rows, width_in, width_out = shape
        same = [w for w in weights if w.shape == (width_out, width_in) and w.dtype == dtype]
        same = same or [torch.randn(width_out, width_in).to(dtype)]
        x = torch.randn(rows, width_in).to(dtype)
        b = torch.zeros(width_out, dtype=dtype)
        once = [0]

        def run(x: Tensor = x, b: Tensor = b, same: list[Tensor] = same, at: Any = once) -> None:
            at[0] += 1
            F.linear(x, same[at[0] % len(same)], b)

        total += calls * seconds_of(run, 9)
    return total


def bare_attention(part: Piece) -> float:
    """Seconds the attention calls of a run take with `scaled_dot_product_attention` alone."""
    total = 0.0
    for (shape, dtype), calls in part.shapes.items():
        batch, heads, queries, keys, dim = shape
        q = torch.randn(batch, heads, queries, dim).to(dtype)
        k, v = (torch.randn(batch, heads, keys, dim).to(dtype) for _ in range(2))

        def run(q: Tensor = q, k: Tensor = k, v: Tensor = v) -> Tensor:
            return F.scaled_dot_product_attention(q, k, v)

        total += calls * seconds_of(run)
    return total


def matrix_rate(dtype: torch.dtype, rows: int = 2048, width: int = 2048) -> float:
    """Floating-point operations a second of one large matrix product."""
    x, w = torch.randn(rows, width).to(dtype), torch.randn(4 * width, width).to(dtype)
    return 2 * rows * width * 4 * width / seconds_of(lambda: F.linear(x, w))


def memory_rate(size: int = 1 << 28) -> float:
    """Bytes a second, read plus written, of copying `size` bytes."""
    a, b = torch.ones(size, dtype=torch.uint8), torch.empty(size, dtype=torch.uint8)
    return 2 * size / seconds_of(lambda: b.copy_(a))


class PeakMemory:
    """The resident memory of this process; the peak can be forgotten between runs. Linux only."""

    def __init__(self) -> None:
        self.known = Path("/proc/self/clear_refs").exists()

    def now(self) -> int:
        """Bytes resident now; 0 where the system does not say."""
        return process_bytes("VmRSS") if self.known else 0

    def forget(self) -> None:
        """Starts a new peak from what is resident now, freed memory given back."""
        heap.give_back()
        if self.known:
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")

    def peak(self) -> int:
        """The most bytes resident since `forget`; 0 where the system does not say."""
        return process_bytes("VmHWM") if self.known else 0


def processor() -> str:
    """The processor's name and the threads in use."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text(encoding="utf-8").splitlines()
        name = next((s.split(":", 1)[1].strip() for s in lines if s.startswith("model name")), name)
    return f"{name}, {torch.get_num_threads()} threads"


def heading(device: torch.device) -> str:
    """Device, date and versions, for the line above a table."""
    what = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    return f"{what}; {date.today().isoformat()}; torch {torch.__version__}"


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(row) + " |" for row in (columns, *rows)]
    lines.insert(1, "|" + "---|" * len(columns))
    return "\n".join(lines)
