"""The door to the heavy half: nothing behind it is imported before it is asked for.

Commands call these functions through the module (`engine.load(...)`), so that a test can put a
small stand-in behind the door.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalekv.cli.console import interrupts
from scalekv.cli.console.interrupts import interrupts_wait
from scalekv.infinity_patch.machine.machine import limit_spinning

if TYPE_CHECKING:
    from scalekv.configs.models import ModelPreset
    from scalekv.configs.recorded import AttentionChoice
    from scalekv.infinity_patch import Picture, Pipeline, Progress, Request
    from scalekv.infinity_patch.asked.settled import Settled
    from scalekv.infinity_patch.calibration.measure import Calibration
    from scalekv.infinity_patch.calibration.plan import CalibrationRequest
    from scalekv.infinity_patch.generation.attention_record import AttentionRecorder
    from scalekv.infinity_patch.generation.forced import ForcedPicture
    from scalekv.infinity_patch.loading.placement import Placement


def check(
    request: Request, preset: ModelPreset, weights_dir: Path | None, dtype: str, device: str
) -> Settled:
    """What a request comes to; refuses what can be known to fail without reading weights. Imports
    no torch.

    Args:
        device: type of the device that the run is for, "cuda" or "cpu".

    Raises:
        UserError: the first thing found wrong.
    """
    from scalekv.infinity_patch import check as check_request

    return check_request(request, preset, weights_dir, dtype, device)


def load(
    preset: ModelPreset,
    device: str,
    dtype: str,
    weights_dir: Path | None,
    placement: Placement | None = None,
    texts: Sequence[str] = (),
) -> Pipeline:
    """Reads the model; imports torch, which takes seconds.

    Args:
        texts: that will be encoded, where they are known and the placement has them come first.

    Raises:
        UserError: missing, damaged or foreign weights, or no such device.
    """
    from scalekv.infinity_patch.files.read_ahead import read_ahead

    limit_spinning()
    read_ahead(preset, weights_dir)
    # Nothing is ever fetched while generating, and libraries keep quiet on our stderr.
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    # What MPS lacks (interpolation in three dimensions) then runs on the CPU; read at the import.
    os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")
    with interrupts_wait(leave_at_second=True):  # an import that is interrupted may swallow it
        if placement is None or placement.text_cache is None:  # else all texts may be at hand
            from transformers import T5EncoderModel  # noqa: F401  (it is imported late)

        from scalekv.infinity_patch import generate as _  # noqa: F401
        from scalekv.infinity_patch import load as load_pipeline
    return load_pipeline(
        preset,
        device=device,
        dtype=dtype,
        weights_dir=weights_dir,
        placement=placement,
        texts=texts,
    )


def encode(pipeline: Pipeline, texts: Sequence[str]) -> None:
    """Makes the features of texts that pictures of several requests need, and lets the text encoder
    go unless it is to be kept."""
    from scalekv.infinity_patch.generation.pipeline import encode_ahead

    interrupts.raise_lost()
    encode_ahead(pipeline, texts)


def generate(
    pipeline: Pipeline,
    settled: Settled,
    on_progress: Callable[[Progress], None],
    on_smaller_batch: Callable[[int], None],
    recorder: AttentionRecorder | None = None,
) -> Iterator[Picture]:
    """The pictures, each as soon as it is done; their attention is recorded where asked for."""
    from scalekv.infinity_patch import generate as generate_pictures

    def told(progress: Progress) -> None:
        interrupts.raise_lost()
        on_progress(progress)

    return generate_pictures(
        pipeline,
        settled,
        on_progress=told,
        on_smaller_batch=on_smaller_batch,
        on_caches=None if recorder is None else recorder.begin,
    )


RECORDED = ".qkv.safetensors"
"""How the name of a file ends that a recorder wrote."""


def recorder(choice: AttentionChoice, settled: Settled, folder: Path) -> AttentionRecorder:
    """What records attention while pictures are made, into hidden files of a folder.

    Raises:
        UserError: layers or scales that there are not, or too little room on the disk.
    """
    from scalekv.infinity_patch.generation.attention_record import AttentionRecorder as Recorder

    return Recorder(choice, settled, folder)


def forced_on_all(
    pipeline: Pipeline, full: Settled, others: Sequence[Settled], prompt: str, seed: int
) -> list[ForcedPicture]:
    """The bits that the first draws of a prompt, forced on it and on the others."""
    from scalekv.infinity_patch.generation.forced import forced_on_all as force

    interrupts.raise_lost()
    return force(pipeline, full, others, prompt, seed)


def check_calibration(
    request: CalibrationRequest,
    preset: ModelPreset,
    weights_dir: Path | None,
    dtype: str,
    device: str,
    offload: bool,
) -> Settled:
    """What the pictures of a calibration come to; refuses what can be known to fail without reading
    weights. Imports no torch.

    Raises:
        UserError: the first thing found wrong.
    """
    from scalekv.infinity_patch.calibration.plan import check_calibration as check_request

    return check_request(request, preset, weights_dir, dtype, device, offload)


def measuring_bytes(settled: Settled, gradients: bool) -> tuple[int, int]:
    """Of the device and of the host, that measuring a coded cache's constants on pictures takes
    beside a full cache. Imports no torch."""
    from scalekv.infinity_patch.calibration.plan import measuring_bytes as planned
    from scalekv.infinity_patch.planning.footprint import TEXT_TOKENS

    return planned(settled.schedule, settled.shape, TEXT_TOKENS, gradients)


def calibrate(
    pipeline: Pipeline,
    request: CalibrationRequest,
    on_progress: Callable[[Progress], None],
    on_picture: Callable[[Picture], None],
) -> Calibration:
    """What attention looks like on the request's prompts, and what follows."""
    from scalekv.infinity_patch.calibration.measure import calibrate as measure

    def told(progress: Progress) -> None:
        interrupts.raise_lost()
        on_progress(progress)

    return measure(pipeline, request, on_progress=told, on_picture=on_picture)


def machine(pipeline: Pipeline) -> dict[str, Any]:
    """What the run happens on: `cli.machine` and, where it is CUDA, the device."""
    from scalekv.infinity_patch.machine.machine import machine as this_machine

    facts = this_machine()
    if pipeline.device.type == "cuda":
        import torch

        properties = torch.cuda.get_device_properties(pipeline.device)
        facts["device_name"] = properties.name
        facts["device_memory_bytes"] = properties.total_memory
    return facts


def computes_on(pipeline: Pipeline) -> str:
    """What computes, in a word: where it is another, the last bits of a picture can be others."""
    from scalekv.infinity_patch.machine.computes import machine_of

    return str(machine_of(pipeline.device)["name"])


def use_threads(pipeline: Pipeline, count: int) -> None:
    """Computes on a CPU with this many threads: sums, and so last bits, depend on it."""
    pipeline.threads = count


def forget_peaks(pipeline: Pipeline) -> None:
    """Begins to measure memory anew."""
    from scalekv.infinity_patch.machine.peaks import Stages

    pipeline.stages = Stages(pipeline.device)


def highest_peaks(pipeline: Pipeline) -> dict[str, int]:
    """The highest peaks of memory in bytes since `forget_peaks`, by what they are peaks of."""
    return pipeline.stages.highest()


def release(pictures: Iterator[Picture]) -> None:
    """Ends a generation where it is, so that the model is its own again before anything else."""
    close = getattr(pictures, "close", None)
    if close is not None:
        close()


def free_memory(pipeline: Pipeline) -> None:
    """Gives back what was allocated and is not used, after memory ran out."""
    from scalekv.infinity_patch.generation.batching import free_memory as free

    free(pipeline.device)
