"""Processor, memory and threads of this machine. Knows the operating system; imports no torch."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path
from typing import Any

from scalekv.infinity_patch.machine.gpus import gpu_of

SIBLINGS = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
QUOTA = Path("/sys/fs/cgroup/cpu.max")


SPINS = {"GOMP_SPINCOUNT": "10000", "KMP_BLOCKTIME": "0"}
"""How long a thread that waits for others keeps its core busy, by the OpenMP library (GNU's, turns
of a loop, 300,000 unless told; LLVM's, milliseconds, 200 unless told): tens of microseconds, which
is as long as the next piece of work takes to come. A tenth of that costs a tenth of the pictures on
an idle machine, five times as much most of them on a busy one."""


def limit_spinning() -> None:
    """Has threads that wait for others give up their core soon: where other work has taken the core
    of one of them, the rest would spin for as long as it is away. To be called before torch is
    loaded, which reads it; what is set already, of this or of OMP_WAIT_POLICY, stays."""
    if not any(os.environ.get(name) for name in ("OMP_WAIT_POLICY", *SPINS)):
        os.environ.update(SPINS)


def sensible_threads() -> int | None:
    """One thread per physical core that this process may use.

    None where the system does not say, or where OMP_NUM_THREADS has said it already.
    A second thread on a core does not multiply matrices faster. A container's limit counts, which
    torch's own default does not know.
    """
    if os.environ.get("OMP_NUM_THREADS"):
        return None
    try:
        allowed = os.sched_getaffinity(0)
        cores = {Path(SIBLINGS.format(n)).read_text(encoding="ascii").strip() for n in allowed}
    except (AttributeError, OSError):  # not Linux, or no /sys
        return None
    quota = _quota()
    return len(cores) if quota is None else max(min(len(cores), quota), 1)


def _quota() -> int | None:
    """Processors that a container may keep busy, rounded up; None for no limit."""
    try:
        most, period = QUOTA.read_text(encoding="ascii").split()
        return None if most == "max" else -(-int(most) // int(period))
    except (OSError, ValueError):
        return None


_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


def machine() -> dict[str, Any]:
    """Processor, cores a process may use, memory in bytes, system, Python."""
    return {
        "processor": processor(),
        "cores": usable_cores(),
        "memory_bytes": memory_bytes(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def processor() -> str:
    """The processor's name, as the system has it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() in ("model name", "Model", "Hardware"):
            return value.strip()
    return platform.processor() or platform.machine()


def usable_cores() -> int:
    """Cores this process may run on."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory_bytes() -> int:
    """Bytes of memory that processes here can have together: the machine's, or the container's
    where that is less."""
    installed = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(installed, int(_CGROUP_LIMIT.read_text()))
    except (OSError, ValueError):  # no container, or "max": no limit
        return installed


def memory_facts() -> dict[str, int]:
    """What Linux says of the machine's memory, in bytes by its own names; {} on other systems."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return {}
    return {line.split(":")[0]: int(line.split()[1]) << 10 for line in lines if ":" in line}


def available_bytes() -> int:
    """Bytes that programs could still take without others being swapped out; 0: not known."""
    return memory_facts().get("MemAvailable", 0)


def device_memory(device: str) -> tuple[str, int] | None:
    """Name and bytes of memory of the device a run would use, asked of the driver.

    Args:
        device: "cuda", "cuda:1", or "auto" for the first there is.

    Returns:
        None: no NVIDIA driver here, or no such device.
    """
    gpu = gpu_of(device)
    return None if gpu is None else (gpu.name, gpu.total_bytes)


BF16 = frozenset({"avx512_bf16", "amx_bf16"})


def of_processor() -> frozenset[str]:
    """The processor's flags by their Linux names; empty where the system does not list them."""
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return frozenset()
    lines = info.read_text(encoding="utf-8").splitlines()
    return frozenset(next((s.split(":")[1].split() for s in lines if s.startswith("flags")), ()))
