"""Pictures with what the JSON beside them says, and the ones to look at side by side.

Knows files; changes none.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scalekv.cli.pictures.formats import format_of
from scalekv.cli.pictures.writing import FORMAT

OF_THE_CACHE = ("policy", "budget", "budget_tokens", "budget_origin", "kv_dtype")
"""Settings that say how much is kept, in which a picture differs from its full twin."""
OF_THE_RUN = (
    *("batch", "device", "dtype", "weights_dtype", "text_device", "text_dtype"),
    *("truncate", "recorded", "machine", "versions"),
)
"""Settings that are no choice of what is drawn."""
FULL = "full"


@dataclass(frozen=True)
class Drawn:
    """A picture and what its sidecar says."""

    path: Path
    sidecar: Mapping[str, Any]

    @property
    def settings(self) -> Mapping[str, Any]:
        """Everything it was made with."""
        settings: Mapping[str, Any] = self.sidecar["settings"]
        return settings

    @property
    def full(self) -> bool:
        """Whether nothing was dropped from its cache."""
        return self.settings.get("policy") == FULL


def pictures_in(folder: Path) -> list[Drawn]:
    """Pictures of a folder that have a readable sidecar beside them."""
    pictures = (path for path in sorted(folder.iterdir()) if format_of(path) is not None)
    found = (drawn_as(path) for path in pictures)
    return [one for one in found if one is not None]


def drawn_as(path: Path) -> Drawn | None:
    """A picture with its sidecar; None where either is not there or is not ours."""
    try:
        sidecar = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not path.is_file() or not isinstance(sidecar, dict):
        return None
    if sidecar.get("file") not in (None, path.name):
        return None  # of a picture of that name in another format
    if sidecar.get("format") != FORMAT or not {"settings", "cache", "seconds"} <= sidecar.keys():
        return None
    return Drawn(path, sidecar)


def picture_entry(drawn: Drawn) -> dict[str, Any]:
    """A picture as reports list it."""
    return {
        "file": drawn.path.name,
        "sidecar": drawn.path.with_suffix(".json").name,
        "prompt": drawn.settings["prompt"],
        "seed": drawn.settings["seed"],
        "seconds": drawn.sidecar["seconds"],
        "truncated": drawn.sidecar.get("truncated"),
    }


def twins(pictures: Iterable[Drawn], folders: Iterable[Path]) -> dict[Path, Drawn]:
    """For pictures that something was dropped from, those drawn with the same settings and
    nothing dropped, as far as the folders have them."""
    full = {_key(one): one for folder in folders for one in pictures_in(folder) if one.full}
    return {one.path: full[_key(one)] for one in pictures if not one.full and _key(one) in full}


def _key(drawn: Drawn) -> str:
    """All that decides what is drawn but how much of the cache is kept, whatever comes to be among
    it."""
    ignored = (*OF_THE_CACHE, *OF_THE_RUN)
    return json.dumps({k: v for k, v in sorted(drawn.settings.items()) if k not in ignored})
