"""Peaks of memory while a run loads, encodes, generates its scales and decodes.

Knows the device's and the system's counters; nothing of what the memory is used for.
"""

from __future__ import annotations

import resource
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import torch

STAGES = ("load", "encode", "scales", "record", "decode")

Peaks = dict[str, int]
"""Peaks in bytes by what they are peaks of: resident, or allocated and reserved."""

_SELF = Path("/proc/self")
_SAMPLE_SECONDS = 0.005


class Counter(Protocol):
    """Something that finds the peak between a start and an end; `source` says what it reads."""

    source: str

    def start(self) -> None:
        """Begins, forgetting what was before."""
        ...

    def peaks(self) -> Peaks:
        """Ends: the peaks since `start`."""
        ...


class Stages:
    """The peaks of each stage of a run, each the highest of all the times it was gone through.

    A stage entered inside another one interrupts it: what happens in the inner one counts there.

    Attributes:
        device: where the model is.
        inventory: says what the weights there take now, by part; asked when a stage begins and when
            it ends.
        recorded: says what memory recorded work holds, which PyTorch does not count as allocated.
        sources: what was read for the figures, in words.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._counters = _counters(device, lambda: self.recorded())
        self.inventory: Callable[[], Peaks] = dict
        self.recorded: Callable[[], int] = int
        self.sources = [counter.source for counter in self._counters]
        self._peaks: dict[str, Peaks] = {}
        self._weights: dict[str, Peaks] = {}
        self._open: list[str] = []

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Counts what happens inside the block towards the stage `name`."""
        self._book()
        self._open.append(name)
        self._start()
        try:
            yield
        finally:
            self._book()
            self._open.pop()
            self._start()

    def peaks(self) -> dict[str, Peaks]:
        """Peaks in bytes of every stage gone through, in order."""
        return {name: dict(self._peaks[name]) for name in sorted(self._peaks, key=_place)}

    def weights(self) -> dict[str, Peaks]:
        """Bytes of the weights by part that were on the device in every stage."""
        return {name: dict(self._weights[name]) for name in sorted(self._weights, key=_place)}

    def highest(self) -> Peaks:
        """The highest of each peak over all stages."""
        highest: Peaks = {}
        for peaks in self._peaks.values():
            _raise_to(highest, peaks)
        return highest

    def _start(self) -> None:
        if self._open:
            self._take_stock()
            for counter in self._counters:
                counter.start()

    def _book(self) -> None:
        """Adds what was measured since the last start to the current stage."""
        if self._open:
            peaks = self._peaks.setdefault(self._open[-1], {})
            for counter in self._counters:
                _raise_to(peaks, counter.peaks())
            self._take_stock()

    def _take_stock(self) -> None:
        _raise_to(self._weights.setdefault(self._open[-1], {}), self.inventory())


def _place(name: str) -> int:
    return STAGES.index(name) if name in STAGES else len(STAGES)


def _raise_to(peaks: Peaks, other: Peaks) -> None:
    for name, count in other.items():
        peaks[name] = max(peaks.get(name, 0), count)


def _counters(device: torch.device, recorded: Callable[[], int]) -> list[Counter]:
    counters: list[Counter] = [_process_counter()]
    if device.type == "cuda":
        counters.append(_CudaPeaks(device, recorded))
    return counters


def _process_counter() -> Counter:
    if not (_SELF / "status").exists():
        return _HighestSoFar()
    kernel = _KernelPeak()
    try:
        kernel.start()
    except OSError:  # some containers do not let a process write there
        return _SampledPeak()
    return kernel


class _CudaPeaks:
    """PyTorch's own counters of what its tensors take and of what it holds for them. What is
    recorded lies in memory of no tensor: it is added as it was at the start."""

    def __init__(self, device: torch.device, recorded: Callable[[], int]) -> None:
        self.source = "device: torch.cuda's allocated and reserved peaks"
        self._device = device
        self._recorded, self._beside = recorded, 0

    def start(self) -> None:
        self._beside = self._recorded()
        torch.cuda.reset_peak_memory_stats(self._device)

    def peaks(self) -> Peaks:
        return {
            "allocated_peak_bytes": torch.cuda.max_memory_allocated(self._device) + self._beside,
            "reserved_peak_bytes": torch.cuda.max_memory_reserved(self._device),
        }


class _KernelPeak:
    """The kernel's own peak, started anew by writing 5 to clear_refs (proc_pid_clear_refs(5))."""

    source = "process: VmHWM, started anew for every stage"

    def start(self) -> None:
        (_SELF / "clear_refs").write_text("5")

    def peaks(self) -> Peaks:
        return {"resident_peak_bytes": process_bytes("VmHWM")}


class _SampledPeak:
    """The highest of samples taken by a thread: a peak shorter than its pause can be missed."""

    source = f"process: VmRSS, sampled every {_SAMPLE_SECONDS * 1000:g} ms"

    def start(self) -> None:
        self._highest = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True, name="memory-samples")
        self._thread.start()

    def peaks(self) -> Peaks:
        self._done.set()
        self._thread.join()
        return {"resident_peak_bytes": self._highest}

    def _sample(self) -> None:
        while True:
            self._highest = max(self._highest, process_bytes("VmRSS"))
            if self._done.wait(_SAMPLE_SECONDS):
                return


class _HighestSoFar:
    """Where no peak can be started anew: the highest since the process began."""

    source = "process: ru_maxrss, the highest since the start of the process"

    def start(self) -> None:
        pass

    def peaks(self) -> Peaks:
        unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
        return {"resident_peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}


def process_bytes(key: str) -> int:
    """Bytes of one line of /proc/self/status, which counts in KiB."""
    for line in (_SELF / "status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == key:
            return int(value.split()[0]) * 1024
    raise AssertionError(f"/proc/self/status has no {key}")
