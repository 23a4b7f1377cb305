"""What computes: where it is another, the last bits of a picture can be others. Knows torch's names
of devices and processors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch

from scalekv.infinity_patch.machine.machine import processor


def machine_of(device: torch.device) -> dict[str, Any]:
    """What computes on a device, as pictures say it."""
    if device.type == "cuda":
        return {"name": torch.cuda.get_device_name(device)}
    return {
        "name": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
    }


@contextmanager
def on_threads(count: int | None) -> Iterator[None]:
    """Inside, a CPU computes with so many threads; None: with as many as torch is set to."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


_processor = cache(processor)


def exactly(device: torch.device) -> dict[str, str]:
    """All that is known to change last bits on a device: its kind, what computes and with how many
    threads, the processor's own name, torch."""
    found = {name: str(value) for name, value in machine_of(device).items()}
    if device.type != "cuda":
        found["processor"] = _processor()
    return {"device": device.type, **found, "torch": str(torch.__version__)}
