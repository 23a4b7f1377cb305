"""The memory report as one HTML page that needs nothing but itself.

Knows what the page shows and says; its looks are in `templates/`, its charts in `memory_charts`.
"""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from markupsafe import Markup
from PIL import Image

from scalekv.cli.report.figures import (
    STAGES,
    WORKER_HEADS,
    peak_of,
    pictures_of_kind,
    worker_rows,
)
from scalekv.cli.report.kinds import drawn_kind, drawn_with
from scalekv.cli.report.memory_charts import Table, charts_of, maps_of
from scalekv.cli.report.sidecars import Drawn, drawn_as, twins
from scalekv.cli.report.templating import render_template
from scalekv.kv.sizes import human_bytes

SHOWN_SIDE = 640  # pixels; a larger picture is put into the page at that size
LARGEST_AS_IS = 512  # pixels; up to this side a picture is put into the page bit for bit

OUTCOMES = {
    "complete": "All pictures were drawn.",
    "running": "The run had not ended when this was written: it is still going on, or was killed.",
    "interrupted": "The run was interrupted.",
    "failed": "The run ended with an error.",
    "unknown": "The run left no report; this is what the files beside its pictures say. Peaks of "
    "memory and figures by scale are not among it.",
}


@dataclass(frozen=True)
class Shown:
    """A picture in the page: `source` is its data, `link` the file as seen from the page."""

    source: str
    link: str
    width: int
    height: int
    label: str
    bytes_held: str


def render(
    report: Mapping[str, Any],
    folder: Path,
    others: Sequence[Path] = (),
    place: Path | None = None,
) -> str:
    """The page.

    Args:
        report: a run's figures.
        folder: where its pictures are.
        others: more folders to look in for the same pictures drawn with nothing dropped.
        place: the folder that the page is to be put into; None: `folder`.
    """
    cache = report["cache"]
    return render_template(
        "report.html.j2",
        title=f"{report['model']['name']}: {_title(report)}",
        report=report,
        outcome=_outcome(report),
        key_figures=_key_figures(report),
        pictures=_pictures(report, folder, others, folder if place is None else place),
        charts=charts_of(report),
        maps=maps_of(cache),
        bound=report.get("lower_bound"),
        sparsity=report.get("sparsity"),
        settings=_settings(report),
        svg=Markup,
        human_bytes=human_bytes,
    )


def _title(report: Mapping[str, Any]) -> str:
    """What the pictures were drawn with: all kinds, where there are several."""
    kinds = report.get("kinds", [])
    if len(kinds) > 1:
        return "; ".join(
            drawn_with(kind["policy"], kind["budget"]) + pictures_of_kind(kind) for kind in kinds
        )
    return drawn_with(*drawn_kind(report["cache"])) if report["cache"] else "no picture"


def _outcome(report: Mapping[str, Any]) -> str:
    """How the run ended, and how many of the pictures asked for there are."""
    before = int(report.get("pictures_there_before", 0))
    done, wanted = len(report["pictures"]) + before, report.get("pictures_wanted")
    sentence = OUTCOMES.get(str(report["outcome"]), str(report["outcome"]))
    earlier = f" {before} of them were there before this run." if before else ""
    if wanted is None or (report["outcome"] == "complete" and done >= wanted):
        return sentence + earlier
    if report["outcome"] == "complete":
        sentence = "The run ended."  # and pictures were taken away since
    return f"{sentence} {done} of {wanted} pictures are there.{earlier}"


def _key_figures(report: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Name, value and remark of the figures to see first."""
    cache, rows = report["cache"], []
    if cache:
        held = int(cache["held_peak_bytes"])
        full = report["full_caches"][0]
        rows = [
            ("cache held, peak", human_bytes(held), "keys and values of all layers together"),
            (
                "of the full cache",
                f"{full['ratio']:.1%}",
                f"{human_bytes(full['bytes'])}: {cache['history_tokens']} history tokens, "
                "same dtype",
            ),
        ]
        rows += [
            (
                f"held by {drawn_with(kind['policy'], kind['budget'])}",
                human_bytes(kind["held_peak_bytes"]),
                f"peak, {kind['ratio_history']:.1%} of the full cache{pictures_of_kind(kind)}",
            )
            for kind in report.get("kinds", [])[1:]
        ]
        if "coded" in cache:
            constants = int(cache["coded"]["constants_bytes"])
            remark = "of the coded cache: of the model, once for any batch, not in what is held"
            rows.append(("constants", human_bytes(constants), remark))
    if report["stages"]:
        stage, peaks = max(report["stages"].items(), key=lambda item: peak_of(item[1]))
        kind = "allocated on the device" if "allocated_peak_bytes" in peaks else "resident"
        where = f"{kind}, while: {STAGES.get(stage, stage)}"
        rows.append(("highest peak", human_bytes(peak_of(peaks)), where))
    seconds = [float(picture["seconds"]) for picture in report["pictures"]]
    if seconds:
        mean = sum(seconds) / len(seconds)
        rows.append(("pictures", str(len(seconds)), f"{mean:.2f} s each, from text to pixels"))
    return rows


def _pictures(
    report: Mapping[str, Any], folder: Path, others: Sequence[Path], place: Path
) -> list[dict[str, Any]]:
    drawn = {picture["file"]: drawn_as(folder / picture["file"]) for picture in report["pictures"]}
    known = [one for one in drawn.values() if one is not None]
    full = twins(known, (folder, *others))
    shown = []
    for picture in report["pictures"]:
        one = drawn[picture["file"]]
        twin = None if one is None else full.get(one.path)
        shown.append(
            {
                "prompt": picture["prompt"],
                "seed": picture["seed"],
                "file": picture["file"],
                "seconds": float(picture["seconds"]),
                "image": None if one is None else _shown(one, place),
                "twin": None if twin is None else _shown(twin, place),
            }
        )
    return shown


def _shown(drawn: Drawn, place: Path) -> Shown:
    label = "full cache" if drawn.full else drawn_with(*drawn_kind(drawn.sidecar["cache"]))
    link = os.path.relpath(drawn.path.resolve(), place.resolve())
    with Image.open(drawn.path) as image:
        width, height = image.size
        if max(width, height) <= LARGEST_AS_IS:
            kind, content = str(image.format).lower(), drawn.path.read_bytes()
        else:
            image.thumbnail((SHOWN_SIDE, SHOWN_SIDE), Image.Resampling.LANCZOS)
            buffer = io.BytesIO()
            image.save(buffer, "WEBP", quality=90)
            kind, content = "webp", buffer.getvalue()
    return Shown(
        source=f"data:image/{kind};base64,{base64.b64encode(content).decode()}",
        link=quote(link),
        width=width,
        height=height,
        label=label,
        bytes_held=human_bytes(int(drawn.sidecar["cache"]["held_peak_bytes"])),
    )


def _settings(report: Mapping[str, Any]) -> list[Table]:
    """How the run was set and where it ran."""
    run = {
        "model": f"{report['model']['name']} ({report['model']['chosen_by']})",
        "device": report["device"],
        "dtype": report["dtype"],
        "weights_dtype": report.get("weights_dtype", ""),
        "started": report.get("started", ""),
        "scalekv": report["version"],
    }
    settings = {k: v for k, v in report.get("settings", {}).items() if k not in run}
    settings |= _files(settings.pop("recorded", {}))
    machine = dict(report.get("machine", {}))
    for key in [key for key in machine if key.endswith("_bytes")]:
        machine[key.removesuffix("_bytes")] = human_bytes(machine.pop(key))
    machine["peaks read from"] = "; ".join(report["read_from"])
    workers = worker_rows(report)
    return [
        Table("Settings", ["setting", "value"], _pairs({**run, **settings})),
        Table("Machine", ["what", "value"], _pairs(machine)),
        *([Table("Workers", WORKER_HEADS, workers)] if workers else []),
    ]


def _files(recorded: Mapping[str, Any]) -> dict[str, str]:
    """Files that the request named. What else a picture records of its request is said already."""
    named = recorded.get("files", {})
    return {"files": ", ".join(f"{name} ({word[:8]})" for name, word in named.items())}


def _pairs(values: Mapping[str, Any]) -> list[list[str]]:
    return [
        [name.replace("_", " "), _value(value)]
        for name, value in values.items()
        if value not in ("", None, [], {})
    ]


def _value(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_value(one)}" for name, one in value.items())
    if isinstance(value, list):
        same = len(value) > 1 and all(one == value[0] for one in value)
        return f"{_value(value[0])} at every scale" if same else ", ".join(map(_value, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)
