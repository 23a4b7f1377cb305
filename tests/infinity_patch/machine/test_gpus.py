"""What is made of the driver's answers: every GPU, the one a run would use, none, a failure."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pynvml
import pytest

from scalekv.infinity_patch.machine.gpus import DriverFailed, Gpu, gpu_of, gpus
from scalekv.infinity_patch.machine.machine import device_memory

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
