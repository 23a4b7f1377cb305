"""The report of everything in a batch's folder: of all its runs and shards, resumed or killed.

Knows manifests, reports and sidecars; changes no file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scalekv.cli.batch.manifest import read_manifests
from scalekv.cli.report.figures import denominators, largest_cache, peak_of
from scalekv.cli.report.kinds import Kinds, drawn_kind
from scalekv.cli.report.sidecars import drawn_as, picture_entry


def whole_batch(folder: Path, reports: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One report of a folder.

    Args:
        reports: those of the batch's runs, in the order they were written; at least one.

    Raises:
        UserError: a manifest that cannot be read.
    """
    listed = (drawn_as(folder / name) for name in read_manifests(folder))
    drawn = [one for one in listed if one is not None]
    kinds = Kinds.of(one.sidecar["cache"] for one in drawn)
    # a run that goes on with a batch replaces the one before it, a shard stands beside the others
    last = {report.get("manifest"): report for report in reports}
    wanted = max(sum(int(r.get("pictures_wanted", 0)) for r in last.values()), len(drawn), 1)
    cache = _with_scales(kinds.main, reports)
    stages = _highest(reports)
    workers = [worker for report in reports for worker in report.get("workers", ())]
    return {
        **reports[-1],
        "outcome": _outcome([str(r["outcome"]) for r in last.values()], len(drawn), wanted),
        "started": min(str(r.get("started", "")) for r in reports),
        "pictures_wanted": wanted,
        "pictures_there_before": 0,
        "pictures": [picture_entry(one) for one in drawn],
        "failed": [row for r in last.values() for row in r.get("failed", ())],
        "seconds": {
            key: round(sum(float(r["seconds"].get(key, 0)) for r in reports), 3)
            for key in ("load", "all")
        },
        "cache": dict(cache),
        "kinds": kinds.to_list(),
        **{name: cache[name] for name in ("ratio_history", "ratio_all") if name in cache},
        **denominators(cache),
        "stages": stages,
        **({"workers": workers} if workers else {}),
        "memory": _most([r["memory"] for r in reports]),
    }


def _outcome(outcomes: Sequence[str], found: int, wanted: int) -> str:
    if found >= wanted:
        return "complete"
    return next((o for o in ("running", "interrupted", "failed") if o in outcomes), "failed")


def _with_scales(
    cache: Mapping[str, Any], reports: Sequence[Mapping[str, Any]]
) -> Mapping[str, Any]:
    """The ledger of the same kind that says something of every scale, as sidecars do not."""
    if not cache:
        return {}
    same = [
        r["cache"] for r in reports if r["cache"] and drawn_kind(r["cache"]) == drawn_kind(cache)
    ]
    return largest_cache(same) or cache


def _highest(reports: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Every stage from the run in which it had the highest peak."""
    stages: dict[str, Any] = {}
    for report in reports:
        for name, peaks in report["stages"].items():
            if name not in stages or peak_of(peaks) > peak_of(stages[name]):
                stages[name] = peaks
    return stages


def _most(memory: Sequence[Mapping[str, int]]) -> dict[str, int]:
    names = dict.fromkeys(name for one in memory for name in one)
    return {name: max(one.get(name, 0) for one in memory) for name in names}
