"""Whether a model can run on this machine: what is there, what is wrong and how to mend it.

Knows torch, the driver, the hub's cache and presets; prints nothing. torch is imported only while
it is being checked, so that a broken one is a finding and no crash.
"""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from scalekv.configs.models import ModelPreset
from scalekv.infinity_patch.files.hub import (
    WeightsMissing,
    hub_cache,
    missing_files,
    model_files,
    parts_of,
)
from scalekv.infinity_patch.files.inventory import State, Verdict, stored, verify
from scalekv.kv.errors import UserError

LEAST_PYTHON = (3, 11)
LEAST_DISK = 1 << 30  # bytes; a picture needs megabytes, a download says itself what it needs
LIBRARIES = ("transformers", "tokenizers", "safetensors", "huggingface_hub", "numpy", "pillow")
SECONDS_FOR_DRIVER = 20


class Level(StrEnum):
    """How a finding is to be taken."""

    FINE = "ok"
    NOTE = "note"
    PROBLEM = "problem"


@dataclass(frozen=True)
class Finding:
    """One thing that was checked: its name, how it is, what was found, and how to mend it."""

    name: str
    level: Level
    found: str
    fix: str = ""


@dataclass(frozen=True)
class Gpu:
    """What the driver says of a GPU; memory in bytes, `busy` the share of time it computes."""

    name: str
    driver: str
    total_bytes: int
    free_bytes: int
    busy: float


def examine(
    preset: ModelPreset,
    weights_dir: Path | None,
    out: Path,
    *,
    thorough: bool = False,
) -> Iterator[Finding]:
    """Checks everything a picture of `preset` needs, one finding at a time.

    Args:
        weights_dir: a folder with the model's files instead of the usual place, or None.
        out: the folder pictures would go to.
        thorough: read downloaded files whole and compare them with their hashes.
    """
    yield _python()
    yield from _libraries()
    yield from _torch(preset, weights_dir)
    yield _memory()
    yield from _folders(out)
    yield from _weights(preset, weights_dir, thorough)


def gpus() -> list[Gpu] | None:
    """What `nvidia-smi` says of the GPUs; None where it is not there or says nothing."""
    fields = "name,driver_version,memory.total,memory.free,utilization.gpu"
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
    try:
        said = subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=SECONDS_FOR_DRIVER
        )
    except (OSError, subprocess.SubprocessError):
        return None
    found = []
    for line in said.stdout.splitlines():
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) == 5:
            total, free, busy = (float(cell) if _is_number(cell) else 0.0 for cell in cells[2:])
            found.append(Gpu(cells[0], cells[1], int(total) << 20, int(free) << 20, busy / 100))
    return found


def _is_number(cell: str) -> bool:
    return cell.replace(".", "", 1).isdigit()


def _python() -> Finding:
    said = f"{platform.python_version()} at {sys.executable}, {platform.platform()}"
    if sys.version_info[:2] < LEAST_PYTHON:
        least = ".".join(map(str, LEAST_PYTHON))
        fix = f"make the virtual environment with Python {least} or newer"
        return Finding("Python", Level.PROBLEM, said, fix)
    return Finding("Python", Level.FINE, said)


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


def _torch(preset: ModelPreset, weights_dir: Path | None) -> Iterator[Finding]:
    driver = gpus()
    if driver:
        for index, gpu in enumerate(driver):
            said = (
                f"{gpu.name}, driver {gpu.driver}, {_size(gpu.free_bytes)} of "
                f"{_size(gpu.total_bytes)} free, {gpu.busy:.0%} busy"
            )
            yield Finding(f"GPU {index}", Level.FINE, said)
    try:
        torch = importlib.import_module("torch")
    except Exception as error:  # a library that does not fit can fail in any way
        fix = "install torch again: pip install -c constraints.txt torch"
        yield Finding("torch", Level.PROBLEM, f"cannot be imported: {error}", fix)
        return
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU build"
    said = f"{torch.__version__}, {build}, {torch.get_num_threads()} threads"
    yield Finding("torch", Level.FINE, said)
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            yield _cuda(index, preset, weights_dir)
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


def _cuda(index: int, preset: ModelPreset, weights_dir: Path | None) -> Finding:
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
    said = (
        f"{torch.cuda.get_device_name(index)}, compute {major}.{minor}, {_size(free)} of "
        f"{_size(total)} free"
    )
    needed = stored(preset).nbytes if weights_dir is None else 0
    if needed > free:
        return Finding(
            name,
            Level.PROBLEM,
            f"{said}; the files of {preset.name} alone are {_size(needed)}",
            "free the GPU (nvidia-smi shows who uses it), or take a smaller model",
        )
    return Finding(name, Level.FINE, said)


def _memory() -> Finding:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return Finding("memory", Level.NOTE, "how much there is cannot be told here")
    facts = {line.split(":")[0]: int(line.split()[1]) << 10 for line in lines if ":" in line}
    free, total = facts.get("MemAvailable", 0), facts.get("MemTotal", 0)
    said = f"{_size(free)} of {_size(total)} available, {os.cpu_count()} processors"
    return Finding("memory", Level.FINE, said)


def _folders(out: Path) -> Iterator[Finding]:
    cache = hub_cache()
    for name, folder, fix in (
        ("cache folder", cache, "make it writable, or set HF_HOME to another folder"),
        ("output folder", out.absolute(), "make it writable, or name another with --out"),
    ):
        there = next(path for path in (folder, *folder.parents) if path.exists())
        free = shutil.disk_usage(there).free
        said = f"{folder}, {_size(free)} free" + ("" if there == folder else ", not made yet")
        if not there.is_dir() or not _writable(there):
            yield Finding(name, Level.PROBLEM, f"{folder} cannot be written to", fix)
        elif free < LEAST_DISK:
            fix = "free some space on that disk, or name a folder on another one"
            yield Finding(name, Level.PROBLEM, said, fix)
        else:
            yield Finding(name, Level.FINE, said)


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
    said = f"{here.state}, {_size(here.nbytes)}" if weights_dir is None else f"in {weights_dir}"
    if thorough and weights_dir is None:
        yield from _hashes(preset, name, said)
    else:
        yield Finding(name, Level.FINE, f"{said}; every file opens")


def _still_missing(preset: ModelPreset) -> str:
    missing = [name for part in parts_of(preset) for name in missing_files(part, hub_cache())]
    return f"{len(missing)} files are missing, the first is {missing[0]}"


def _hashes(preset: ModelPreset, name: str, said: str) -> Iterator[Finding]:
    verdicts = verify(preset)
    for path, verdict in verdicts:
        if verdict is Verdict.DAMAGED:
            fix = f"scalekv models remove {preset.name} --yes; scalekv download {preset.name}"
            yield Finding(name, Level.PROBLEM, f"{path} is not what its hash says", fix)
    if all(verdict is not Verdict.DAMAGED for _, verdict in verdicts):
        compared = sum(verdict is Verdict.WHOLE for _, verdict in verdicts)
        yield Finding(name, Level.FINE, f"{said}; {compared} files compared with their hashes")


def _open(path: Path) -> None:
    """Opens a checkpoint as the loader does: lists all tensors, reads none.

    Raises:
        UserError: it is not whole, or no checkpoint.
    """
    from scalekv.infinity_patch.loading.checkpoint import open_checkpoint

    with open_checkpoint(path):
        pass


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 1 << 30 else f"{count / 2**20:.0f} MiB"
