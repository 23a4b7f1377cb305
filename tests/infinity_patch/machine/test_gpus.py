"""What is made of the driver's answers: every GPU, the one a run would use, none, a failure."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from ctypes import c_int
from types import SimpleNamespace

import pynvml
import pytest

from scalekv.cli.plan.room import memory_given
from scalekv.infinity_patch.machine import gpus as module
from scalekv.infinity_patch.machine.gpus import DriverFailed, Gpu, gpu_of, gpus
from scalekv.infinity_patch.machine.machine import device_memory
from scalekv.kv.errors import UserError

CARDS = [
    Gpu("NVIDIA H200", "570.1", 143771 << 20, 143000 << 20, 0.07),
    Gpu("NVIDIA L4", "570.1", 23034 << 20, 22000 << 20, 0.5),
]
IDS = {"GPU-abc": 1}


def fails(code: int) -> Callable[..., object]:
    def call(*_: object) -> object:
        raise pynvml.NVMLError(code)

    return call


@pytest.fixture
def cards(monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that knows `CARDS`; a handle is the number of one."""

    def by_index(index: int) -> int:
        if index >= len(CARDS):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_INVALID_ARGUMENT)
        return index

    answers: dict[str, Callable[..., object]] = {
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlDeviceGetCount": lambda: len(CARDS),
        "nvmlSystemGetDriverVersion": lambda: CARDS[0].driver,
        "nvmlDeviceGetHandleByIndex": by_index,
        "nvmlDeviceGetHandleByUUID": lambda name: IDS[name],
        "nvmlDeviceGetName": lambda card: CARDS[card].name,
        "nvmlDeviceGetMemoryInfo": lambda card: SimpleNamespace(
            total=CARDS[card].total_bytes, free=CARDS[card].free_bytes
        ),
        "nvmlDeviceGetUtilizationRates": lambda card: SimpleNamespace(
            gpu=round(100 * CARDS[card].busy)
        ),
    }
    for name, answer in answers.items():
        monkeypatch.setattr(pynvml, name, answer)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")


@pytest.mark.usefixtures("cards")
def test_every_gpu() -> None:
    assert gpus() == CARDS


@pytest.mark.usefixtures("cards")
def test_the_gpu_that_a_run_would_use(monkeypatch: pytest.MonkeyPatch) -> None:
    assert gpu_of("cuda") == gpu_of("auto") == gpu_of("cuda:0") == CARDS[0]
    assert gpu_of("cuda:1") == CARDS[1]
    assert device_memory("cuda:1") == (CARDS[1].name, CARDS[1].total_bytes)
    assert gpu_of("cuda:2") is None
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1, 0")
    assert gpu_of("cuda") == CARDS[1]
    assert gpu_of("cuda:1") == CARDS[0]
    assert gpu_of("cuda:2") is None
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-abc")
    assert gpu_of("cuda") == CARDS[1]


@pytest.mark.usefixtures("cards")
def test_a_part_of_a_gpu_does_not_say_how_busy_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    refuses = fails(pynvml.NVML_ERROR_NOT_SUPPORTED)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetUtilizationRates", refuses)
    assert [gpu.busy for gpu in gpus()] == [0.0, 0.0]


@pytest.mark.parametrize(
    "code", [pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED]
)
def test_no_driver(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    monkeypatch.setattr(pynvml, "nvmlInit", fails(code))
    assert gpus() == []
    assert gpu_of("cuda") is None
    assert device_memory("cuda") is None


@pytest.mark.usefixtures("cards")
@pytest.mark.parametrize("call", ["nvmlInit", "nvmlDeviceGetMemoryInfo"])
def test_a_driver_that_does_not_answer(monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    monkeypatch.setattr(pynvml, call, fails(pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH))
    with pytest.raises(DriverFailed, match="mismatch"):
        gpus()
    assert gpu_of("cuda") is None


class Cuda:
    """CUDA's driver, which puts the second card of `CARDS` first; ids are its number repeated."""

    order = (1, 0)

    def cuInit(self, flags: int) -> int:
        return 0 if self.order else 100

    def cuDeviceGetCount(self, count: object) -> int:
        return _put(count, len(self.order))

    def cuDeviceGet(self, device: object, index: int) -> int:
        return _put(device, self.order[index])

    def cuDeviceGetUuid(self, raw: object, device: c_int) -> int:
        raw._obj[:] = [device.value] * 16  # type: ignore[attr-defined]
        return 0


def _put(into: object, value: int) -> int:
    into._obj.value = value  # type: ignore[attr-defined]
    return 0


@pytest.mark.usefixtures("cards")
def test_where_gpus_differ_the_first_is_cudas_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_DEVICE_ORDER")
    monkeypatch.setattr(module, "_cuda", Cuda)
    ids = {f"GPU-{n * 4}-{n * 2}-{n * 2}-{n * 2}-{n * 6}": int(n) for n in ("00", "01")}
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByUUID", lambda name: ids[name])
    assert gpu_of("auto") == gpu_of("cuda:0") == CARDS[1]
    assert gpu_of("cuda:1") == CARDS[0]
    assert gpu_of("cuda:2") is None
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    assert gpu_of("cuda:0") == CARDS[0]
    monkeypatch.delenv("CUDA_DEVICE_ORDER")
    monkeypatch.setattr(Cuda, "order", ())  # none is visible
    assert gpu_of("cuda:0") is None


@pytest.mark.usefixtures("cards")
def test_without_cudas_driver_the_order_is_the_bus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_DEVICE_ORDER")

    def missing() -> object:
        raise OSError

    monkeypatch.setattr(module, "_cuda", missing)
    assert gpu_of("cuda") == CARDS[0]


@pytest.mark.usefixtures("cards")
def test_a_plan_for_a_driver_that_fails_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    refuses = fails(pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH)
    monkeypatch.setattr(pynvml, "nvmlInit", refuses)
    with pytest.raises(UserError, match=r"does not answer: .*[Mm]ismatch"):
        memory_given(None, "cuda")
    assert memory_given(None, "auto").device == "cpu"  # as a run would do


def test_without_a_driver_the_bindings_are_not_imported() -> None:
    code = (
        "import ctypes, sys\n"
        "def absent(name): raise OSError(name)\n"
        "ctypes.CDLL = absent\n"
        "from scalekv.infinity_patch.machine.gpus import gpus\n"
        "print(gpus(), 'pynvml' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["[]", "False"]
