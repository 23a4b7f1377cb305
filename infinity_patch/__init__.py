"""Running Infinity with a compressed cache. Importing this imports no torch; using it does.

from scalekv.infinity_patch import Request, generate, load, patched
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scalekv.infinity_patch.loader import Pipeline, load
    from scalekv.infinity_patch.patch import patched
    from scalekv.infinity_patch.pipeline import Picture, Progress, generate
    from scalekv.infinity_patch.placement import Placement
    from scalekv.infinity_patch.request import Request, check

_HOMES = {
    "Pipeline": "loader",
    "load": "loader",
    "patched": "patch",
    "Picture": "pipeline",
    "Progress": "pipeline",
    "generate": "pipeline",
    "Placement": "placement",
    "Request": "request",
    "check": "request",
}

__all__ = [
    "Picture",
    "Pipeline",
    "Placement",
    "Progress",
    "Request",
    "check",
    "generate",
    "load",
    "patched",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
