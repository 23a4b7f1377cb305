"""One worker as the driver sees it: where it is, what it has, and what became of it.

Knows what workers answer; asks them nothing.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from scalekv.cli.batch.jobs import Job
from scalekv.cli.cluster.drawer import Place, versions
from scalekv.cli.report.measured import ProcessFigures
from scalekv.kv.errors import UserError


@dataclass
class Member:
    """One actor: first it is nowhere, then it loads, then it draws.

    Attributes:
        number: counted from 1 through the whole run; one that takes the place of another has a
            number of its own.
        awaited: what Ray was asked for last: a reference, or while it draws a stream of them.
        jobs: that it was given and has not answered for.
    """

    number: int
    actor: Any
    awaited: Any
    place: Place | None = None
    measured: ProcessFigures | None = None
    jobs: list[Job] = field(default_factory=list)
    drawing: bool = False
    asked_at: float = field(default_factory=time.perf_counter)
    load_seconds: float = 0.0
    pictures: int = 0
    seconds: float = 0.0
    held_bytes: int = 0
    lost: str | None = None

    @property
    def name(self) -> str:
        """Node and number, as manifests and reports have it."""
        return f"{self.place.host if self.place else '?'}/{self.number}"

    def to_dict(self) -> dict[str, Any]:
        """As reports list it."""
        assert self.place is not None
        assert self.measured is not None
        return {
            "name": self.name,
            "host": self.place.host,
            "device": self.measured.device,
            "device_name": self.measured.machine.get("device_name"),
            "pictures": self.pictures,
            "seconds": {"load": round(self.load_seconds, 3), "drawing": round(self.seconds, 3)},
            "peak_bytes": self.measured.highest_peak,
            "lost": self.lost,
        }


def reason_of(error: Exception) -> str:
    """Why a worker is lost, by what Ray says of it."""
    import ray

    if isinstance(error, ray.exceptions.OutOfMemoryError):
        return "its node ran out of memory"
    lines = str(error).strip().splitlines()
    if isinstance(error, ray.exceptions.RayTaskError):
        return lines[-1] if lines else type(error).__name__
    missing = [line for line in lines if "ModuleNotFoundError" in line]  # of its start, as text
    return missing[-1].strip() if missing else "its process died"


def other_versions(place: Place) -> UserError:
    """The refusal of a node that would draw other pictures."""
    ours = versions()
    other = ", ".join(
        f"{name} {found}, here {ours[name]}"
        for name, found in place.versions.items()
        if found != ours[name]
    )
    return UserError(
        f"other versions are installed there: {other}",
        where="--engine ray",
        rule="the same versions on all nodes: pictures are not to depend on where they are drawn",
        fix="pip install " + " ".join(f"{name}=={version}" for name, version in ours.items()),
    )
