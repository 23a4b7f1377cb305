"""What NVIDIA's driver says of the GPUs, asked through NVML. Knows nothing of torch or models."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


class DriverFailed(Exception):
    """There is a driver, and it does not answer; the text is its reason."""


@dataclass(frozen=True)
class Gpu:
    """What the driver says of a GPU; memory in bytes, `busy` the share of time it computes."""

    name: str
    driver: str
    total_bytes: int
    free_bytes: int
    busy: float


def gpus() -> list[Gpu]:
    """All GPUs of this machine, in the driver's order; [] where there is no driver.

    Raises:
        DriverFailed: it does not answer.
    """
    with _driver() as nvml:
        if nvml is None:
            return []
        return [
            _facts(nvml, nvml.nvmlDeviceGetHandleByIndex(index))
            for index in range(nvml.nvmlDeviceGetCount())
        ]


def gpu_of(device: str) -> Gpu | None:
    """The GPU that a run on `device` would use.

    Args:
        device: "cuda", "cuda:1", or "auto" for the first one. CUDA_VISIBLE_DEVICES counts, which
            names devices by number or by their unique id.

    Returns:
        None: no driver here, or no such GPU.
    """
    index = int(device.partition(":")[2] or 0)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [str(index)] * (index + 1) if visible is None else visible.split(",")
    if index >= len(names):
        return None
    name = names[index].strip()
    try:
        with _driver() as nvml:
            if nvml is None:
                return None
            by_number = name.isdecimal()
            find = nvml.nvmlDeviceGetHandleByIndex if by_number else nvml.nvmlDeviceGetHandleByUUID
            return _facts(nvml, find(int(name) if by_number else name))
    except DriverFailed:
        return None


@contextmanager
def _driver() -> Iterator[Any]:
    """NVML, ready to be asked; None where there is no driver."""
    import pynvml

    absent = (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED)
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        if error.value not in absent:
            raise DriverFailed(str(error)) from error
        yield None
        return
    try:
        yield pynvml
    except pynvml.NVMLError as error:
        raise DriverFailed(str(error)) from error
    finally:
        pynvml.nvmlShutdown()


def _facts(nvml: Any, handle: Any) -> Gpu:
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    try:
        busy = nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100
    except nvml.NVMLError:  # a part of a GPU does not tell
        busy = 0.0
    return Gpu(
        str(nvml.nvmlDeviceGetName(handle)),
        str(nvml.nvmlSystemGetDriverVersion()),
        int(memory.total),
        int(memory.free),
        busy,
    )
