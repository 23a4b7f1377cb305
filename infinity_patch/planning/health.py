"""Whether a model can run on this machine: what is there, what is wrong and how to mend it.

Knows torch, the driver, the hub's cache and presets; prints nothing. torch is imported only while
it is being checked, so that a broken one is a finding and no crash.
"""

from __future__ import annotations

import importlib
import os
import platform
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from scalekv.configs.models import ModelPreset
from scalekv.infinity_patch.files.disk import existing, free_disk
from scalekv.infinity_patch.files.hashes import SUMS
from scalekv.infinity_patch.files.hub import (
    WeightsMissing,
    hub_cache,
    missing_files,
    model_files,
    parts_of,
)
from scalekv.infinity_patch.files.inventory import State, Verdict, stored, verify
from scalekv.infinity_patch.files.text_entries import text_entries
from scalekv.infinity_patch.machine.gpus import DriverFailed, Gpu, gpus
from scalekv.infinity_patch.machine.machine import memory_facts
from scalekv.infinity_patch.planning.planner import (
    DoesNotFit,
    Planner,
    refuse_what_cannot_fit,
    run_text,
)
from scalekv.kv.errors import UserError
from scalekv.kv.sizes import human_bytes

LEAST_PYTHON = (3, 11)
LEAST_DISK = 1 << 30  # bytes; a picture needs megabytes, a download says itself what it needs
LIBRARIES = ("tokenizers", "safetensors", "huggingface_hub", "numpy", "pillow")


class Level(StrEnum):
    """How serious a finding is."""

    FINE = "ok"
    NOTE = "note"
    PROBLEM = "problem"


@dataclass(frozen=True)
class Finding:
    """One check: its name, its level, what was found, and the fix."""

    name: str
    level: Level
    found: str
    fix: str = ""


def examine(
    preset: ModelPreset,
    weights_dir: Path | None,
    out: Path,
    *,
    text_cache: Path | None = None,
    thorough: bool = False,
) -> Iterator[Finding]:
    """Checks everything a picture of `preset` needs, one finding at a time.

    Args:
        weights_dir: a folder with the model's files instead of the usual place, or None.
        out: the folder pictures would go to.
        text_cache: the folder that keeps text features, where there is to be one.
        thorough: read downloaded files whole and compare them with their hashes.
    """
    yield _python()
    yield from _libraries()
    yield from _torch()
    yield _memory()
    yield from _folders(preset, out)
    if text_cache is not None:
        yield _text_cache(text_cache)
    yield from _weights(preset, weights_dir, thorough)


def room(
    planner: Planner, memory: int, of: str, free: int | None = None, options: str = ""
) -> Finding:
    """Whether memory is enough for what is planned, as `scalekv plan` and every run have it.

    Args:
        memory: bytes of `of`, "NVIDIA H100" or "this machine".
        free: bytes of it that nobody uses now; None: not known.
        options: that are taken without being asked for, so that it fits.
    """
    plan = planner.footprint()
    settled = planner.settled
    budget = "" if settled.planned is None else f", budget {settled.planned.label}"
    budget += f", {options}" if options else ""
    found = (
        f"{run_text(plan)} of {settled.preset.name}, policy {settled.policy_name}{budget}, would "
        f"take {human_bytes(plan.needed)} of the {human_bytes(memory)} of {of}"
    )
    try:
        refuse_what_cannot_fit(planner, memory, of)
    except DoesNotFit as error:
        return Finding("room", Level.PROBLEM, found, error.fix)
    if free is not None and plan.needed > free:
        return Finding(
            "room",
            Level.NOTE,
            f"{found}, of which {human_bytes(free)} are free now",
            "free the GPU: nvidia-smi shows who uses it",
        )
    return Finding("room", Level.FINE, found)


def _python() -> Finding:
    facts = f"{platform.python_version()} at {sys.executable}, {platform.platform()}"
    if sys.version_info[:2] < LEAST_PYTHON:
        least = ".".join(map(str, LEAST_PYTHON))
        fix = f"make the virtual environment with Python {least} or newer"
        return Finding("Python", Level.PROBLEM, facts, fix)
    return Finding("Python", Level.FINE, facts)


def _libraries() -> Iterator[Finding]:
    versions, missing = [], []
    for name in LIBRARIES:
        try:
            versions.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)
    if missing:
        fix = "pip install -c constraints.txt . in a copy of the repository"
        yield Finding("libraries", Level.PROBLEM, f"missing: {', '.join(missing)}", fix)
    yield Finding("scalekv", Level.FINE, f"{version('scalekv')}; {', '.join(versions)}")


def _torch() -> Iterator[Finding]:
    driver: list[Gpu] = []
    try:
        driver = gpus()
    except DriverFailed as error:
        fix = "load the driver anew, or restart the machine: `nvidia-smi` must list the GPUs"
        yield Finding("GPU", Level.PROBLEM, f"NVIDIA's driver does not answer: {error}", fix)
    for index, gpu in enumerate(driver):
        found = (
            f"{gpu.name}, driver {gpu.driver}, {human_bytes(gpu.free_bytes)} of "
            f"{human_bytes(gpu.total_bytes)} free, {gpu.busy:.0%} busy"
        )
        yield Finding(f"GPU {index}", Level.FINE, found)
    try:
        torch = importlib.import_module("torch")
    except Exception as error:  # a library that does not fit can fail in any way
        fix = "install torch again: pip install -c constraints.txt torch"
        yield Finding("torch", Level.PROBLEM, f"cannot be imported: {error}", fix)
        return
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU build"
    facts = f"{torch.__version__}, {build}, {torch.get_num_threads()} threads"
    yield Finding("torch", Level.FINE, facts)
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            yield _cuda(index)
    elif torch.backends.mps.is_available():
        yield Finding("device", Level.FINE, "mps")
    elif not driver:
        yield Finding("device", Level.NOTE, "no GPU: pictures are computed on the CPU")
    elif not torch.version.cuda:
        yield Finding(
            "device",
            Level.PROBLEM,
            "there is a GPU, and this torch was built without CUDA",
            f"pip install 'torch=={torch.__version__.split('+')[0]}' from the index for CUDA that "
            "https://pytorch.org/get-started names for your driver",
        )
    else:
        yield Finding(
            "device",
            Level.PROBLEM,
            f"the driver {driver[0].driver} shows GPUs, torch for CUDA {torch.version.cuda} none",
            "update the driver or install a torch for an older CUDA; "
            "CUDA_VISIBLE_DEVICES must not be empty",
        )


def _cuda(index: int) -> Finding:
    torch = importlib.import_module("torch")
    name = f"cuda:{index}"
    try:
        ones = torch.ones(64, 64, device=name, dtype=torch.bfloat16)
        works = float((ones @ ones)[0, 0]) == 64
        free, total = torch.cuda.mem_get_info(index)
    except RuntimeError as error:
        first = str(error).splitlines()[0]
        fix = "another torch build, or free the GPU: nvidia-smi shows who uses it"
        return Finding(name, Level.PROBLEM, f"does not compute: {first}", fix)
    if not works:
        return Finding(name, Level.PROBLEM, "computes wrong", "check the GPU: nvidia-smi -q")
    major, minor = torch.cuda.get_device_capability(index)
    facts = (
        f"{torch.cuda.get_device_name(index)}, compute {major}.{minor}, {human_bytes(free)} of "
        f"{human_bytes(total)} free"
    )
    return Finding(name, Level.FINE, facts)


def _memory() -> Finding:
    facts = memory_facts()
    if not facts:
        return Finding("memory", Level.NOTE, "how much there is cannot be told here")
    free, total = facts.get("MemAvailable", 0), facts.get("MemTotal", 0)
    amount = f"{human_bytes(free)} of {human_bytes(total)} available, {os.cpu_count()} processors"
    return Finding("memory", Level.FINE, amount)


def _folders(preset: ModelPreset, out: Path) -> Iterator[Finding]:
    cache = hub_cache()
    for name, folder, fix in (
        ("cache folder", cache, "make it writable, or set HF_HOME to another folder"),
        ("output folder", out.absolute(), "make it writable, or name another with --out"),
    ):
        parent, free = existing(folder), free_disk(folder)
        facts = f"{folder}, {human_bytes(free)} free" + (
            "" if parent == folder else ", not made yet"
        )
        if not parent.is_dir() or not _writable(parent):
            shared = folder == cache and stored(preset).state is State.DOWNLOADED
            level = Level.NOTE if shared else Level.PROBLEM  # all that is wanted of it is there
            yield Finding(name, level, f"{folder} cannot be written to", fix)
        elif free < LEAST_DISK:
            fix = "free some space on that disk, or name a folder on another one"
            yield Finding(name, Level.PROBLEM, facts, fix)
        else:
            yield Finding(name, Level.FINE, facts)


def _text_cache(folder: Path) -> Finding:
    """What the folder holds, and whether more can be kept there."""
    held = text_entries(folder)
    found = f"{folder}, features of {held.count} prompts, {human_bytes(held.nbytes)}"
    parent = existing(folder)
    if not parent.is_dir():
        fix = "name a folder by text_cache, or leave it out"
        return Finding("text cache", Level.PROBLEM, f"{folder} cannot be a folder", fix)
    if not _writable(parent):
        return Finding(
            "text cache",
            Level.NOTE,
            f"{found}; it cannot be written to",
            "make it writable, or name another folder: what is missing is encoded each time",
        )
    return Finding("text cache", Level.FINE, found)


def _writable(folder: Path) -> bool:
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _weights(preset: ModelPreset, weights_dir: Path | None, thorough: bool) -> Iterator[Finding]:
    name = f"model {preset.name}"
    here = stored(preset)
    try:
        paths = model_files(preset, weights_dir)
    except WeightsMissing as error:
        partly = here.state is State.PARTLY and weights_dir is None
        found = "partly downloaded; " + _still_missing(preset) if partly else error.what
        yield Finding(name, Level.PROBLEM, found, error.fix)
        return
    text = paths.text_encoder / "model.safetensors"
    damaged = False
    for label, path in (
        ("transformer", paths.transformer),
        ("VAE", paths.vae),
        ("text encoder", text if text.is_file() else paths.text_encoder),
    ):
        try:
            _open(path)
        except UserError as error:
            damaged = True
            again = f"scalekv models remove {preset.name} --yes; scalekv download {preset.name}"
            fix = again if preset.downloadable and weights_dir is None else error.fix
            yield Finding(f"{name}, {label}", Level.PROBLEM, f"{error.what} ({path})", fix)
        except ImportError:
            yield Finding(name, Level.NOTE, "there; without torch it cannot be opened")
            return
    if damaged:
        return
    facts = (
        f"{here.state}, {human_bytes(here.nbytes)}" if weights_dir is None else f"in {weights_dir}"
    )
    if thorough:
        yield from _hashes(preset, weights_dir, name, facts)
    else:
        yield Finding(name, Level.FINE, f"{facts}; every file opens")


def _still_missing(preset: ModelPreset) -> str:
    missing = [name for part in parts_of(preset) for name in missing_files(part, hub_cache())]
    return f"{len(missing)} files are missing, the first is {missing[0]}"


def _hashes(
    preset: ModelPreset, weights_dir: Path | None, name: str, facts: str
) -> Iterator[Finding]:
    verdicts = verify(preset, weights_dir=weights_dir)
    fix = f"scalekv models remove {preset.name} --yes; scalekv download {preset.name}"
    if weights_dir is not None:
        fix = f"put the right file there, or correct {SUMS}"
    elif not preset.downloadable:
        fix = "install scalekv again: this model comes with it" if preset.built_in else ""
    for path, verdict in verdicts:
        if verdict is Verdict.DAMAGED:
            yield Finding(name, Level.PROBLEM, f"{path} is not what its hash says", fix)
    if all(verdict is not Verdict.DAMAGED for _, verdict in verdicts):
        compared = sum(verdict is Verdict.WHOLE for _, verdict in verdicts)
        found = f"{facts}; every file opens, {compared} compared with their hashes"
        if unknown := len(verdicts) - compared:
            others = f"{found}; of {unknown} no hash is known"
            yield Finding(name, Level.NOTE, others, f"{SUMS} beside them, as sha256sum writes it")
        else:
            yield Finding(name, Level.FINE, found)


def _open(path: Path) -> None:
    """Opens a checkpoint as the loader does: lists all tensors, reads none.

    Raises:
        UserError: it is not whole, or no checkpoint.
    """
    from scalekv.infinity_patch.loading.checkpoint import open_checkpoint

    with open_checkpoint(path):
        pass
