"""How many threads to compute with. Knows the operating system; imports no torch."""

from __future__ import annotations

import os
from pathlib import Path

SIBLINGS = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
QUOTA = Path("/sys/fs/cgroup/cpu.max")


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
