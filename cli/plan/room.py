"""Whether a run fits into the memory of its device, as far as that is known, before anything is
loaded. Imports no torch."""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from scalekv.configs.values import AUTO
from scalekv.infinity_patch.machine.gpus import failure
from scalekv.infinity_patch.machine.machine import device_memory, memory_bytes
from scalekv.kv.errors import UserError
from scalekv.kv.sizes import parse_size, size_text

if TYPE_CHECKING:
    from scalekv.infinity_patch.asked.settled import Settled
    from scalekv.infinity_patch.loading.placement import Placement
    from scalekv.infinity_patch.planning.planner import Planner

log = logging.getLogger("scalekv")

CPU, CUDA = "cpu", "cuda"


@dataclass(frozen=True)
class Target:
    """The device that a run is for: its type, "cuda" or "cpu", what it is called, and its memory in
    bytes; None where nobody knows."""

    device: str
    name: str
    memory: int | None

    def beside(self, device_bytes: int, host_bytes: int) -> Target:
        """What is left of it beside what measuring takes there and in the host's memory."""
        taken = device_bytes + (host_bytes if self.device == CPU else 0)
        if self.memory is None or not taken:
            return self
        name = f"{self.name} beside {size_text(taken)} to measure with"
        return replace(self, name=name, memory=max(self.memory - taken, 0))


def target_of(device: str) -> Target:
    """The device that a run is for, as NVIDIA's driver or this machine has it.

    All of its memory is counted, whoever uses it now.

    Args:
        device: "auto", "cpu", "cuda", "cuda:1" or "mps", which counts as this machine.
    """
    if device not in (CPU, "mps"):
        found = device_memory(device)
        if found is not None:
            return Target(CUDA, *found)
        if device != "auto":  # that there is no such device is said when loading
            return Target(CUDA, device, None)
    return Target(CPU, "this machine", memory_bytes())


def memory_given(gpu_memory: str | None, device: str) -> Target:
    """The device a plan is for.

    Args:
        gpu_memory: "80GB" of a CUDA device, whether there is one here or not.
        device: as for `target_of`.

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
        return Target(CUDA, f"a device of {gpu_memory}", parse_size(gpu_memory, "--gpu-memory"))
    target = target_of(device)
    if target.memory is None:
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
    return target


def fits(settled: Settled, target: Target, placement: Placement, weights_dir: Path | None) -> bool:
    """Whether the memory is enough, as far as anybody knows; see `check_room`."""
    if target.memory is None:
        return True
    return planner_of(settled, placement, weights_dir).footprint().needed <= target.memory


def check_room(
    settled: Settled,
    target: Target,
    placement: Placement,
    weights_dir: Path | None,
    *,
    cache_is_given: bool = False,
    loaded: bool = False,
    texts: Collection[str] = (),
    device: str = AUTO,
) -> Placement:
    """Refuses what cannot fit into the memory of the device, or of this machine for its CPU.

    Args:
        placement: that the model is loaded with.
        cache_is_given: policy and budget are not the caller's to choose.
        loaded: the model is there already.
        texts: all that will be encoded, where that is known and `engine.load` is given them; where
            the placement's text cache has them, no encoder is counted.
        device: that the run is for, as it was asked for.

    Returns:
        The placement, or a lighter one in what nobody chose where it fits with that alone.

    Raises:
        UserError: it cannot fit, with the nearest that does.
    """
    from scalekv.infinity_patch.pieces import REMEMBERED
    from scalekv.infinity_patch.planning.lighter import lightened
    from scalekv.infinity_patch.planning.planner import DoesNotFit, refuse_what_cannot_fit

    if target.memory is None:
        return placement
    planner = planner_of(settled, placement, weights_dir)
    options = ""
    if texts and placement.text_cache is not None:
        planner = _without_text(planner, target.memory, texts, device, weights_dir)
    if not loaded:
        known = 0 < len(texts) <= REMEMBERED
        planner, options = lightened(planner, target.memory, texts_known=known)
    try:
        refuse_what_cannot_fit(planner, target.memory, target.name, cache_is_given=cache_is_given)
    except DoesNotFit as error:
        error.fix += ", or --force to try anyway"
        raise
    if options:
        log.warning("%s: otherwise it would not fit into %s", options, target.name)
    return planner.placement


def _without_text(
    planner: Planner, memory: int, texts: Collection[str], device: str, weights_dir: Path | None
) -> Planner:
    """The same, or without the text encoder where memory is too small for it and the text cache has
    all texts."""
    if planner.footprint().needed <= memory:
        return planner
    from scalekv.infinity_patch.loading.loader import texts_at_hand  # needs torch

    found = texts_at_hand(
        *(planner.settled.preset, texts),
        device=device,
        weights_dir=weights_dir,
        placement=planner.placement,
    )
    return planner.placed(text_read=False) if found else planner


def planner_of(
    settled: Settled,
    placement: Placement,
    weights_dir: Path | None,
    text_tokens: int | None = None,
) -> Planner:
    """Plans for a request, with the text encoder and the weights that are on this machine.

    Args:
        text_tokens: of the longest prompt; None: twice as many as usual.
    """
    from scalekv.infinity_patch.planning.footprint import TEXT_TOKENS
    from scalekv.infinity_patch.planning.planner import (
        Planner,
        text_spec_of,
        with_stored_weights,
    )

    tokens = TEXT_TOKENS if text_tokens is None else text_tokens
    placement = with_stored_weights(placement, settled.preset, weights_dir)
    return Planner(settled, placement, tokens, text_spec_of(settled.preset, weights_dir))
