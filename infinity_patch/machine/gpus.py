"""What NVIDIA's driver says of the GPUs, asked through NVML. Knows nothing of torch or models.

NVML numbers GPUs by their place on the bus. CUDA puts the fastest first, unless CUDA_DEVICE_ORDER
says PCI_BUS_ID; where GPUs differ, which one is `cuda:0` is asked of CUDA's driver itself.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

PCI_ORDER = "PCI_BUS_ID"


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
        None: no driver here, one that does not answer, or no such GPU.
    """
    index = int(device.partition(":")[2] or 0)
    try:
        with _driver() as nvml:
            if nvml is None:
                return None
            name = _name_of(nvml, index)
            if name is None:
                return None
            by_number = name.isdecimal()
            find = nvml.nvmlDeviceGetHandleByIndex if by_number else nvml.nvmlDeviceGetHandleByUUID
            return _facts(nvml, find(int(name) if by_number else name))
    except DriverFailed:
        return None


def failure() -> str:
    """Why the driver does not answer; "" where it does, or there is none."""
    try:
        gpus()
    except DriverFailed as error:
        return str(error)
    return ""


def _name_of(nvml: Any, index: int) -> str | None:
    """The number on the bus or the unique id of CUDA's device `index`; None: there is no such."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    by_id = visible is not None and not visible.replace(",", "").replace(" ", "").isdecimal()
    if not by_id and os.environ.get("CUDA_DEVICE_ORDER") != PCI_ORDER:
        handles = [nvml.nvmlDeviceGetHandleByIndex(n) for n in range(nvml.nvmlDeviceGetCount())]
        if len({str(nvml.nvmlDeviceGetName(handle)) for handle in handles}) > 1:
            ids = cuda_ids()
            if ids is not None:
                return ids[index] if index < len(ids) else None
    names = [str(index)] * (index + 1) if visible is None else visible.split(",")
    return names[index].strip() if index < len(names) else None


def cuda_ids() -> list[str] | None:
    """The unique ids of the GPUs that CUDA shows a process, in its own order.

    Returns:
        None: CUDA's driver is not on this machine. []: it shows no GPU.
    """
    try:
        cuda = _cuda()
    except OSError:
        return None
    count, device, raw = ctypes.c_int(), ctypes.c_int(), (ctypes.c_ubyte * 16)()
    if cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count)):
        return []
    ids = []
    for index in range(count.value):
        if cuda.cuDeviceGet(ctypes.byref(device), index):
            return []
        if cuda.cuDeviceGetUuid(ctypes.byref(raw), device):
            return []
        digits = bytes(raw).hex()
        parts = (digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:])
        ids.append("GPU-" + "-".join(parts))
    return ids


def _cuda() -> Any:
    return ctypes.CDLL("libcuda.so.1")


def _no_library() -> bool:
    """Whether NVML is surely absent, without its bindings: importing those is a tenth of the time
    of a command that is refused."""
    if sys.platform != "linux" or "pynvml" in sys.modules:
        return False
    try:
        ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return True
    return False


@contextmanager
def _driver() -> Iterator[Any]:
    """NVML, ready to be asked; None where there is no driver."""
    if _no_library():
        yield None
        return
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
