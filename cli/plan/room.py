"""Whether the memory there is is enough for a run, before anything is loaded; imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from scalekv.infinity_patch.machine.gpus import failure
from scalekv.infinity_patch.machine.machine import device_memory, memory_bytes
from scalekv.kv.errors import UserError
from scalekv.kv.sizes import parse_size

if TYPE_CHECKING:
    from scalekv.cli.choices import Choices


def check_room(choices: Choices) -> None:
    """Refuses what cannot fit into the memory of the device, or of this machine for its CPU.

    All of its memory is counted, whoever uses it now.

    Raises:
        UserError: it cannot fit, with the nearest that does.
    """
    from scalekv.infinity_patch.asked.settled import fixed_batch
    from scalekv.infinity_patch.planning.planner import (
        Planner,
        refuse_what_cannot_fit,
        text_spec_of,
    )

    found = None if choices.device in ("cpu", "mps") else device_memory(choices.device)
    if found is None and choices.device.startswith("cuda"):
        return  # there is no driver to ask; that there is no such device is said when loading
    name, memory = found or ("this machine", memory_bytes())
    device = "cpu" if found is None else "cuda"
    text = text_spec_of(choices.preset, choices.weights_dir)
    planner = Planner(
        choices.request,
        replace(choices.preset, text=text),
        device=device,
        dtype=choices.dtype,
        placement=choices.placement.for_known_prompts(),
    )
    pictures = fixed_batch(choices.request, device) or 1
    refuse_what_cannot_fit(planner, pictures, memory, name)


CPU, CUDA = "cpu", "cuda"


@dataclass(frozen=True)
class Given:
    """A device's type, what it is called, and its memory in bytes; None where nobody knows."""

    device: str
    name: str
    memory: int | None


def memory_given(gpu_memory: str | None, device: str) -> Given:
    """The device a plan is for.

    Args:
        gpu_memory: "80GB" of a CUDA device, whether there is one here or not.
        device: "auto", "cpu", "cuda", "cuda:1" or "mps", which counts as this machine.

    Raises:
        UserError: a size that cannot be read, or a CUDA device that was asked for and is not here.
    """
    if gpu_memory is not None:
        if device in (CPU, "mps"):
            raise UserError(
                f"--gpu-memory {gpu_memory} and --device {device} are about two devices",
                where="--gpu-memory and --device",
                fix="leave one of them out",
            )
        return Given(CUDA, f"a device of {gpu_memory}", parse_size(gpu_memory, "--gpu-memory"))
    if device not in (CPU, "mps"):
        found = device_memory(device)
        if found is not None:
            return Given(CUDA, *found)
        if device != "auto":
            if why := failure():
                raise UserError(
                    f"NVIDIA's driver does not answer: {why}",
                    where="--device",
                    rule="the memory of a device is asked of the driver",
                    fix="scalekv doctor, or say how much it has: --gpu-memory 80GB",
                )
            raise UserError(
                f"there is no device {device!r} here, as far as NVIDIA's driver says",
                where="--device",
                rule="its memory is asked of the driver",
                fix="say how much it has: --gpu-memory 80GB",
            )
    return Given(CPU, "this machine", memory_bytes())
