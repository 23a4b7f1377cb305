"""What a run left in its folder: its report, its pictures, and pictures drawn with nothing dropped
to look at beside them.

Knows files; changes none.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scalekv.cli.pictures.folder import FORMAT
from scalekv.cli.report.figures import denominators, largest_cache
from scalekv.kv.errors import UserError

SAME = ("model", "prompt", "seed", "cfg", "tau", "cfg_layer", "top_p", "schedule", "negative")
"""Settings that a picture shares with the one drawn with nothing dropped."""

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


def find_report(place: Path) -> Path | None:
    """The report of a folder, the last one where several runs share it; or the file itself.

    None: a folder without any.

    Raises:
        UserError: nothing is there.
    """
    if place.is_file():
        return place
    if not place.is_dir():
        raise UserError(
            f"there is no folder {place}",
            where="RUN_DIR",
            rule="the folder that a run put its pictures into, or a report.json in it",
            fix="name the folder given as --out, out where none was",
        )
    numbers = {
        int(match[1] or 1): path
        for path in place.iterdir()
        if (match := re.fullmatch(r"report(?:-(\d+))?\.json", path.name))
    }
    return numbers[max(numbers)] if numbers else None


def read_report(place: Path) -> tuple[dict[str, Any], Path]:
    """A run's report, and the folder its pictures are in.

    Where a run wrote none, there is what the sidecars of its pictures say: no peaks of memory and
    nothing by scale.

    Raises:
        UserError: no report and no sidecar, or a report that is none.
    """
    path = find_report(place)
    if path is None:
        return _from_sidecars(place), place
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read it: {error.strerror}", where=str(path)) from None
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"not readable as JSON: {error}",
            where=str(path),
            fix="name another report, or remove this file: the sidecars are read then",
        ) from None
    _check(report, path)
    return report, path.parent


def _check(report: object, path: Path) -> None:
    needed = ("cache", "pictures", "weights_bytes", "memory", "stages", "outcome")
    found = report.get("format") if isinstance(report, dict) else None
    if found == FORMAT and isinstance(report, dict) and all(key in report for key in needed):
        return
    raise UserError(
        "this is no report of scalekv" if found is None else f"a report of format {found}",
        where=str(path),
        rule=f"a report of format {FORMAT}, with the keys " + ", ".join(needed),
        fix="name the folder of a run, or a report written by this version",
    )


def _from_sidecars(folder: Path) -> dict[str, Any]:
    drawn = sorted(pictures_in(folder), key=lambda one: one.path.stat().st_mtime)
    if not drawn:
        raise UserError(
            f"no report and no picture with a sidecar in {folder}",
            where="RUN_DIR",
            rule="the folder that a run put its pictures into",
            fix="name the folder given as --out, out where none was",
        )
    cache = largest_cache([one.sidecar["cache"] for one in drawn])
    last = drawn[-1].settings
    settings = {k: v for k, v in last.items() if k not in ("prompt", "seed")}
    return {
        "format": FORMAT,
        "version": last.get("versions", {}).get("scalekv", ""),
        "outcome": "unknown",
        "model": {
            "name": last["model"],
            "chosen_by": drawn[-1].sidecar.get("model_chosen_by", ""),
        },
        "device": last.get("device", ""),
        "dtype": last.get("dtype", ""),
        "settings": settings,
        "pictures": [
            {
                "file": one.path.name,
                "sidecar": one.path.with_suffix(".json").name,
                "prompt": one.settings["prompt"],
                "seed": one.settings["seed"],
                "seconds": one.sidecar["seconds"],
                "truncated": one.sidecar.get("truncated"),
            }
            for one in drawn
        ],
        "seconds": {},
        "cache": dict(cache),
        "ratio_history": cache["ratio_history"],
        "ratio_all": cache["ratio_all"],
        **denominators(cache),
        "weights_bytes": {},
        "memory": {},
        "stages": {},
        "read_from": [],
    }


def pictures_in(folder: Path) -> list[Drawn]:
    """Pictures of a folder that have a readable sidecar beside them."""
    found = (drawn_as(path) for path in sorted(folder.glob("*.png")))
    return [one for one in found if one is not None]


def drawn_as(path: Path) -> Drawn | None:
    """A picture with its sidecar; None where either is not there or is not ours."""
    try:
        sidecar = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not path.is_file() or not isinstance(sidecar, dict):
        return None
    if sidecar.get("format") != FORMAT or not {"settings", "cache", "seconds"} <= sidecar.keys():
        return None
    return Drawn(path, sidecar)


def twins(pictures: Iterable[Drawn], folders: Iterable[Path]) -> dict[Path, Drawn]:
    """For pictures that something was dropped from, those drawn with the same settings and
    nothing dropped, as far as the folders have them."""
    full = {_key(one): one for folder in folders for one in pictures_in(folder) if one.full}
    return {one.path: full[_key(one)] for one in pictures if not one.full and _key(one) in full}


def _key(drawn: Drawn) -> str:
    return json.dumps([drawn.settings.get(name) for name in SAME])
