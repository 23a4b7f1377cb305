"""Running Infinity with a compressed cache. Importing this imports no torch; using it does.

from scalekv.infinity_patch import Request, generate, load, patched
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from scalekv.kv.fronts import lazily

if TYPE_CHECKING:
    from scalekv.infinity_patch.asked.check import check
    from scalekv.infinity_patch.asked.request import Request
    from scalekv.infinity_patch.asked.settled import Settled, settle
    from scalekv.infinity_patch.calibration.measure import Calibration, calibrate
    from scalekv.infinity_patch.calibration.plan import CalibrationRequest
    from scalekv.infinity_patch.generation.patch import patched
    from scalekv.infinity_patch.generation.pipeline import Picture, Progress, generate
    from scalekv.infinity_patch.likeness import Likeness, likeness
    from scalekv.infinity_patch.loading.loader import Pipeline, load
    from scalekv.infinity_patch.loading.placement import Placement
    from scalekv.infinity_patch.planning.footprint import Footprint
    from scalekv.infinity_patch.planning.planner import Planner
    from scalekv.infinity_patch.schedules import full_schedule, schedule_for, size_of, sizes_of

_HOMES = {
    "Calibration": "calibration.measure",
    "CalibrationRequest": "calibration.plan",
    "Footprint": "planning.footprint",
    "Likeness": "likeness",
    "Picture": "generation.pipeline",
    "Pipeline": "loading.loader",
    "Placement": "loading.placement",
    "Planner": "planning.planner",
    "Progress": "generation.pipeline",
    "Request": "asked.request",
    "Settled": "asked.settled",
    "calibrate": "calibration.measure",
    "check": "asked.check",
    "full_schedule": "schedules",
    "generate": "generation.pipeline",
    "likeness": "likeness",
    "load": "loading.loader",
    "patched": "generation.patch",
    "schedule_for": "schedules",
    "settle": "asked.settled",
    "size_of": "schedules",
    "sizes_of": "schedules",
}

__all__ = [
    "Calibration",
    "CalibrationRequest",
    "Footprint",
    "Likeness",
    "Picture",
    "Pipeline",
    "Placement",
    "Planner",
    "Progress",
    "Request",
    "Settled",
    "calibrate",
    "check",
    "full_schedule",
    "generate",
    "likeness",
    "load",
    "patched",
    "schedule_for",
    "settle",
    "size_of",
    "sizes_of",
]

__getattr__ = lazily(__name__, _HOMES)
