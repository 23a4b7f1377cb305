"""The report of a run's folder: the one it wrote, or what its other files say.

Knows files; changes none.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from scalekv.cli.pictures.writing import FORMAT
from scalekv.cli.report.figures import denominators
from scalekv.cli.report.kinds import Kinds
from scalekv.cli.report.sidecars import picture_entry, pictures_in
from scalekv.cli.report.whole_batch import whole_batch
from scalekv.kv.errors import UserError


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
    found = _numbered(place)
    return found[-1] if found else None


def _numbered(folder: Path) -> list[Path]:
    """The reports of a folder, in the order they were written."""
    numbers = {
        int(match[1] or 1): path
        for path in folder.iterdir()
        if (match := re.fullmatch(r"report(?:-(\d+))?\.json", path.name))
    }
    return [numbers[number] for number in sorted(numbers)]


def read_report(place: Path) -> tuple[dict[str, Any], Path]:
    """A run's report, and the folder its pictures are in. The folder of a batch has one report of
    all its runs and shards.

    Where a run wrote none, there is what the sidecars of its pictures say: no peaks of memory and
    nothing by scale.

    Raises:
        UserError: no report and no sidecar, or a report that is none.
    """
    path = find_report(place)
    if path is None:
        return _from_sidecars(place), place
    report = _read(path)
    if place.is_dir() and "manifest" in report:
        runs = [_read(one) for one in _numbered(place)]
        return whole_batch(place, [run for run in runs if "manifest" in run]), place
    return report, path.parent


def _read(path: Path) -> dict[str, Any]:
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
    found: dict[str, Any] = report
    return found


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
    kinds = Kinds.of(one.sidecar["cache"] for one in drawn)
    cache = kinds.main
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
        "pictures": [picture_entry(one) for one in drawn],
        "seconds": {},
        "cache": dict(cache),
        "kinds": kinds.to_list(),
        "ratio_history": cache["ratio_history"],
        "ratio_all": cache["ratio_all"],
        **denominators(cache),
        "weights_bytes": {},
        "memory": {},
        "stages": {},
        "read_from": [],
    }
