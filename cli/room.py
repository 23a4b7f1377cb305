"""Whether the memory there is is enough for a run, before anything is loaded; imports no torch."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from scalekv.cli.machine import device_memory, memory_bytes

if TYPE_CHECKING:
    from scalekv.cli.choices import Choices


def check_room(choices: Choices) -> None:
    """Refuses what cannot fit into the memory of the device, or of this machine for its CPU.

    All of its memory is counted, whoever uses it now.

    Raises:
        UserError: it cannot fit, with the nearest that does.
    """
    from scalekv.infinity_patch.planning import Planner, refuse_what_cannot_fit, text_spec_of
    from scalekv.infinity_patch.request import fixed_batch

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
