"""The result of a self-test as one HTML page that needs nothing but itself, and its contact sheet.
Knows what they show; their looks are the memory report's."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

from PIL import Image

from scalekv.cli.console.stdout import to_json
from scalekv.cli.pictures.sheet import PictureGroup, contact_sheet, sheet_bytes
from scalekv.cli.report.memory_charts import Table
from scalekv.cli.report.templating import render_template
from scalekv.kv.sizes import human_bytes

if TYPE_CHECKING:
    from scalekv.infinity_patch.selftest.parts import KnownPicture
    from scalekv.infinity_patch.selftest.policies import PolicyRun

SIDE = 192  # pixels of a picture on the sheet, at most
SHOWN = 384  # of the known picture on the page
ODDEST = 12  # matrices listed
LEVELS = {"ok": "holds", "note": "note", "problem": "does not hold"}


def contact_page(runs: Sequence[PolicyRun], result: Mapping[str, Any]) -> bytes | None:
    """Every prompt under every policy, as a PNG; None where nothing was drawn."""
    rows = min((len(run.pictures) for run in runs), default=0)
    if not rows:
        return None
    groups = []
    for number in range(rows):
        pictures = tuple(run.pictures[number] for run in runs)
        values = [run["psnr_db"] for run in result["policies"]]
        remarks = [
            ""
            if listed is None
            else "equal"
            if listed[number] is None
            else f"{listed[number]:.1f} dB"
            for listed in values
        ]
        groups.append(PictureGroup(pictures, result["prompts"][number], tuple(remarks)))
    page = contact_sheet(
        groups, across=2 if rows > 1 else 1, side=SIDE, labels=[run.label for run in runs]
    )
    about = {key: result[key] for key in ("format", "model", "version")}
    return sheet_bytes(page, to_json(about))


def render_selftest(
    result: Mapping[str, Any], known: KnownPicture | None, sheet: bytes | None
) -> str:
    """The page.

    Args:
        result: as it is written, nothing personal in it.
        known: the known picture, before and after; None: it did not get so far.
        sheet: the contact sheet.
    """
    problems = [one for one in result["findings"] if one["level"] == "problem"]
    return render_template(
        "selftest.html.j2",
        result=result,
        outcome=_outcome(result, len(problems)),
        key_figures=_key_figures(result),
        findings=Table(
            "Findings",
            ["what", "", "found", "what to do"],
            [
                [one["name"], LEVELS[one["level"]], one["found"], one["fix"]]
                for one in sorted(result["findings"], key=lambda one: one["level"] != "problem")
            ],
        ),
        pictures=_known(known),
        sheet=None if sheet is None else _data(sheet, "png"),
        tables=[table for table in _tables(result) if table.rows],
    )


def _outcome(result: Mapping[str, Any], problems: int) -> str:
    if result["outcome"] != "complete":
        return f"The test was {result['outcome']}; this is what it had found."
    if not problems:
        return "Everything holds."
    return "1 thing does not hold." if problems == 1 else f"{problems} things do not hold."


def _key_figures(result: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    rows = []
    if (psnr := result.get("round_trip_psnr_db")) is not None:
        rows.append(("round trip", f"{psnr:.1f} dB", "a drawn apple through the VAE and back"))
    known = result.get("known_picture") or {}
    if known.get("surprise") is not None:
        remark = "a bit of the apple under its caption; 1 is chance"
        rows.append(("surprise", f"{known['surprise']:.3f} bits", remark))
    for run in result["policies"]:
        words = f"{human_bytes(run['held_peak_bytes'])} held, {run['agreement']:.1%} of the bits"
        rows.append((run["label"], f"{median(run['seconds']):.2f} s", f"a picture; {words}"))
    return rows


def _known(known: KnownPicture | None) -> list[tuple[str, str, int, int]]:
    """What each picture is, its data, width and height."""
    if known is None:
        return []
    shown = []
    for words, picture in (("as drawn", known.picture), ("as it came back", known.returned)):
        image = picture.copy()
        image.thumbnail((SHOWN, SHOWN), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        shown.append((words, _data(buffer.getvalue(), "png"), image.width, image.height))
    return shown


def _data(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _tables(result: Mapping[str, Any]) -> list[Table]:
    policies = result["policies"]
    by_scale = range(len(policies[0]["agreement_by_scale"])) if policies else range(0)
    scales = [str(k + 1) for k in by_scale]
    stages = [
        [
            run["label"],
            stage,
            human_bytes(run["peak_bytes"][stage]),
            human_bytes(run["planned_bytes"][stage]),
        ]
        for run in policies
        for stage in run["peak_bytes"]
    ]
    odd = [
        (
            abs(one["octaves"]),
            [
                part,
                one["name"],
                f"{one['octaves']:+.2f}",
                _or_none(one["straight"]),
                _or_none(one["crossed"]),
            ],
        )
        for part, listed in result["matrices"].items()
        for one in listed
        if one["octaves"] is not None
    ]
    odd.sort(key=lambda entry: -entry[0])
    machine = {
        name.removesuffix("_bytes").replace("_", " "): human_bytes(value)
        if name.endswith("_bytes")
        else str(value)
        for name, value in result.get("machine", {}).items()
    }
    about = {
        "model": result["model"] + (", own files" if result["own_weights"] else ""),
        "device": result.get("device", ""),
        "dtype": result.get("dtype", ""),
        "scales": result["schedule"] or "",
        "seconds": f"{result['seconds']:g}",
        "torch": result["torch"],
        **{f"hash of the {k.replace('_', ' ')}": v for k, v in result.get("weights", {}).items()},
        **machine,
    }
    return [
        Table(
            "Share of the full cache's bits that each policy would draw, by scale",
            ["policy", *scales],
            [[run["label"], *(f"{x:.1%}" for x in run["agreement_by_scale"])] for run in policies],
        ),
        Table(
            "Surprise of those bits, in bits a bit, by scale",
            ["policy", *scales],
            [[run["label"], *(f"{x:.3f}" for x in run["surprise_by_scale"])] for run in policies],
        ),
        Table("Peaks of memory", ["policy", "stage", "measured", "planned"], stages),
        Table(
            "Matrices that differ most from their siblings",
            ["part", "matrix", "octaves", "pattern along", "across"],
            [row for _, row in odd[:ODDEST]],
        ),
        Table("Settings and machine", ["what", "value"], [[k, v] for k, v in about.items() if v]),
    ]


def _or_none(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
