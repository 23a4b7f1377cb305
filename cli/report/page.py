"""The memory report as one HTML page that needs nothing but itself.

Knows what the page shows and says; its looks are in `templates/`, its charts in `report_charts`.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from PIL import Image

from scalekv.cli.report.charts import (
    BLUE,
    GREY,
    RED,
    Chart,
    Series,
    heat_map,
    legend_colours,
    stacked_bars,
    stacked_rows,
)
from scalekv.cli.report.figures import PARTS, STAGES, peak_of
from scalekv.cli.report.run_folder import Drawn, drawn_as, twins
from scalekv.kv.sizes import UNITS, human_bytes

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
    """A picture in the page: `source` is its data, `link` the file beside the page."""

    source: str
    link: str
    width: int
    height: int
    label: str
    bytes_held: str


@dataclass(frozen=True)
class Table:
    """Rows of text under headings; the first column names the row."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Figure:
    """A chart and the same figures as a table."""

    chart: Chart
    table: Table


def render(report: Mapping[str, Any], folder: Path, others: Sequence[Path] = ()) -> str:
    """The page.

    Args:
        report: a run's figures.
        folder: where its pictures are; the page is to be put there.
        others: more folders to look in for the same pictures drawn with nothing dropped.
    """
    text = files("scalekv.cli.report").joinpath("templates")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(text.joinpath("report.html.j2").read_text(encoding="utf-8"))
    cache = report["cache"]
    return template.render(
        style=Markup(text.joinpath("report.css").read_text(encoding="utf-8")),
        title=f"{report['model']['name']}: {_drawn_with(cache)}",
        report=report,
        outcome=_outcome(report),
        key_figures=_key_figures(report),
        pictures=_pictures(report, folder, others),
        charts=_charts(report),
        maps=_maps(cache),
        bound=report.get("lower_bound"),
        sparsity=report.get("sparsity"),
        settings=_settings(report),
        svg=Markup,
        human_bytes=human_bytes,
    )


def _drawn_with(cache: Mapping[str, Any]) -> str:
    if not cache:
        return "no picture"
    budget = cache.get("budget")
    return f"{cache['policy']}, budget {budget['label']}" if budget else str(cache["policy"])


def _outcome(report: Mapping[str, Any]) -> str:
    done, wanted = len(report["pictures"]), report.get("pictures_wanted")
    said = OUTCOMES.get(str(report["outcome"]), str(report["outcome"]))
    if wanted is None or (report["outcome"] == "complete" and done == wanted):
        return said
    return f"{said} {done} of {wanted} pictures are there."


def _key_figures(report: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Name, value and remark of the figures to see first."""
    cache, made = report["cache"], []
    if cache:
        held = int(cache["held_peak_bytes"])
        full = report["full_caches"][0]
        made = [
            ("cache held, peak", human_bytes(held), "keys and values of all layers together"),
            (
                "of the full cache",
                f"{full['ratio']:.1%}",
                f"{human_bytes(full['bytes'])}: {cache['history_tokens']} history tokens, "
                "same dtype",
            ),
        ]
        if "coded" in cache:
            constants = int(cache["coded"]["constants_bytes"])
            remark = "of the coded cache: of the model, once for any batch, not in what is held"
            made.append(("constants", human_bytes(constants), remark))
    if report["stages"]:
        stage, peaks = max(report["stages"].items(), key=lambda item: peak_of(item[1]))
        kind = "allocated on the device" if "allocated_peak_bytes" in peaks else "resident"
        where = f"{kind}, while: {STAGES.get(stage, stage)}"
        made.append(("highest peak", human_bytes(peak_of(peaks)), where))
    seconds = [float(picture["seconds"]) for picture in report["pictures"]]
    if seconds:
        mean = sum(seconds) / len(seconds)
        made.append(("pictures", str(len(seconds)), f"{mean:.2f} s each, from text to pixels"))
    return made


def _pictures(
    report: Mapping[str, Any], folder: Path, others: Sequence[Path]
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
                "image": None if one is None else _shown(one, folder),
                "twin": None if twin is None else _shown(twin, folder),
            }
        )
    return shown


def _shown(drawn: Drawn, folder: Path) -> Shown:
    label = "full cache" if drawn.full else _drawn_with(drawn.sidecar["cache"])
    beside = drawn.path.parent.resolve() == folder.resolve()
    with Image.open(drawn.path) as image:
        width, height = image.size
        if max(width, height) <= LARGEST_AS_IS:
            kind, content = "png", drawn.path.read_bytes()
        else:
            image.thumbnail((SHOWN_SIDE, SHOWN_SIDE), Image.Resampling.LANCZOS)
            buffer = io.BytesIO()
            image.save(buffer, "WEBP", quality=90)
            kind, content = "webp", buffer.getvalue()
    return Shown(
        source=f"data:image/{kind};base64,{base64.b64encode(content).decode()}",
        link=drawn.path.name if beside else "",
        width=width,
        height=height,
        label=label,
        bytes_held=human_bytes(int(drawn.sidecar["cache"]["held_peak_bytes"])),
    )


def _charts(report: Mapping[str, Any]) -> list[Figure]:
    cache, made = report["cache"], []
    if cache.get("scales"):
        made += [_held_chart(cache), _share_chart(report, cache)]
    if report["stages"]:
        made.append(_stage_chart(report))
    if cache:
        made.append(_full_chart(report, cache))
    return made


def _held_chart(cache: Mapping[str, Any]) -> Figure:
    """Held bytes while each scale is generated, drafters' and refiners' apart."""
    scales = cache["scales"]
    groups = _groups(cache)
    size, unit = _unit(max(row["held_bytes"] for row in scales))
    series = [
        Series(label, colour, [sum(row) / size for row in rows])
        for (label, rows), colour in zip(groups.items(), (RED, BLUE), strict=False)
    ]
    last = scales[-1]
    text = (
        f"While the last scale was generated {human_bytes(last['held_bytes'])} were held, the most "
        f"at any moment {human_bytes(cache['held_peak_bytes'])}. "
        + ("Drafters are the layers that were given more. " if len(groups) == 2 else "")
        + (
            f"Tokens are coded from scale {cache['coded']['first_coded_scale'] or 'no'} on."
            if "coded" in cache
            else f"The budget holds from scale {_first_evicting(cache)} on."
        )
    )
    of = [f"of it {name}" for name in groups]
    head = ["scale", "map", "history tokens", "held", *of, "index", "transient"]
    rows = [
        [
            str(row["scale"]),
            f"{row['height']} × {row['width']}",
            str(row["history_tokens"]),
            human_bytes(row["held_bytes"]),
            *(human_bytes(sum(by_scale[place])) for by_scale in groups.values()),
            human_bytes(row["index_bytes"]),
            human_bytes(row["transient_bytes"]),
        ]
        for place, row in enumerate(scales)
    ]
    title = f"Held while each scale is generated, {unit}"
    bars = [str(row["scale"]) for row in scales]
    return Figure(stacked_bars("held", title, text, bars, series, unit), Table(title, head, rows))


def _groups(cache: Mapping[str, Any]) -> dict[str, list[list[int]]]:
    """Held bytes by kind of layer, scale and layer of that kind."""
    drafters = (cache.get("budget") or {}).get("drafters") or []
    rows = [row["layers"]["held_bytes"] for row in cache["scales"]]
    if not any(drafters):
        return {"all layers": rows}
    # Before anything is dropped no layer is given more: the drafters to come are counted as such.
    some = next(row for row in drafters if row)
    by_scale = [set(drafters[place] or some) for place in range(len(rows))]
    return {
        name: [
            [count for layer, count in enumerate(row) if (layer in chosen) is wanted]
            for row, chosen in zip(rows, by_scale, strict=True)
        ]
        for name, wanted in (("drafters", True), ("refiners", False))
    }


def _first_evicting(cache: Mapping[str, Any]) -> str:
    for row in cache["scales"]:
        if any(capacity < row["history_tokens"] for capacity in row["layers"]["capacity"]):
            return str(row["scale"])
    return "no scale"


def _share_chart(report: Mapping[str, Any], cache: Mapping[str, Any]) -> Figure:
    """The same bytes as part of those of a cache that drops nothing."""
    scales = cache["scales"]
    per_token = report["full_caches"][0]["bytes"] / max(int(cache["history_tokens"]), 1)
    full = [per_token * row["history_tokens"] for row in scales]
    size, unit = _unit(max(full))
    held = [row["held_bytes"] for row in scales]
    saved = [max(whole - part, 0) for whole, part in zip(full, held, strict=True)]
    title = f"Held, and not held of the full cache, {unit}"
    series = [
        Series("held", BLUE, [count / size for count in held]),
        Series("not held", GREY, [count / size for count in saved]),
    ]
    text = (
        f"At the last scale a full cache of the same dtype holds {human_bytes(round(full[-1]))}; "
        f"this one held {human_bytes(held[-1])}."
    )
    rows = [
        [str(row["scale"]), human_bytes(part), human_bytes(round(whole)), _percent(part, whole)]
        for row, part, whole in zip(scales, held, full, strict=True)
    ]
    head = ["scale", "held", "full cache, history", "share"]
    bars = [str(row["scale"]) for row in scales]
    return Figure(stacked_bars("share", title, text, bars, series, unit), Table(title, head, rows))


def _stage_chart(report: Mapping[str, Any]) -> Figure:
    """Peaks of the stages, by what the memory was used for."""
    stages = report["stages"]
    highest = max(peak_of(peaks) for peaks in stages.values())
    size, unit = _unit(highest)
    colours = legend_colours(PARTS)
    series = [
        Series(label, colours[part], [peaks["parts"][part] / size for peaks in stages.values()])
        for part, label in PARTS.items()
        if any(peaks["parts"][part] for peaks in stages.values())
    ]
    title = f"Peak of each stage by use, {unit}"
    names = [STAGES.get(stage, stage) for stage in stages]
    text = "; ".join(
        f"{name}: {human_bytes(peak_of(peaks))}, of which "
        f"{human_bytes(peaks['parts']['everything_else'])} besides weights and cache"
        for name, peaks in zip(names, stages.values(), strict=True)
    )
    kinds = {
        "allocated_peak_bytes": "allocated",
        "reserved_peak_bytes": "reserved",
        "resident_peak_bytes": "resident",
    }
    present = [kind for kind in kinds if any(kind in peaks for peaks in stages.values())]
    head = ["stage", *(kinds[kind] for kind in present), *PARTS.values()]
    rows = [
        [
            name,
            *(human_bytes(peaks[kind]) if kind in peaks else "" for kind in present),
            *(human_bytes(peaks["parts"][part]) for part in PARTS),
        ]
        for name, peaks in zip(names, stages.values(), strict=True)
    ]
    return Figure(
        stacked_rows("stages", title, text, names, series, unit), Table(title, head, rows)
    )


def _full_chart(report: Mapping[str, Any], cache: Mapping[str, Any]) -> Figure:
    """What was held beside each full cache that it can be called a share of."""
    fulls = report["full_caches"]
    held = int(cache["held_peak_bytes"])
    size, unit = _unit(max(full["bytes"] for full in fulls))
    short = [
        ("published code" if full["official"] else "same dtype")
        + (", all scales" if full["last_scale"] else ", history")
        for full in fulls
    ]
    title = f"Held peak beside full caches, {unit}"
    text = "; ".join(
        f"{full['ratio']:.1%} of the full cache, {full['name']} ({human_bytes(full['bytes'])})"
        for full in fulls
    )
    values = [count / size for count in (held, *(full["bytes"] for full in fulls))]
    rows = [["held, peak", human_bytes(held), ""]] + [
        [full["name"], human_bytes(full["bytes"]), f"{full['ratio']:.1%}"] for full in fulls
    ]
    chart = stacked_rows(
        "full", title, text, ["held, peak", *short], [Series("cache", BLUE, values)], unit
    )
    return Figure(chart, Table(title, ["cache", "bytes", "held peak is"], rows))


def _maps(cache: Mapping[str, Any]) -> list[Figure]:
    """Layer by scale: what could be held and what was."""
    scales = cache.get("scales")
    if not scales:
        return []
    columns = [str(row["scale"]) for row in scales]
    most = max(max(row["layers"]["capacity"]) for row in scales)
    made = []
    for name, key, title, meaning in (
        ("capacity", "capacity", "Capacity", "What each layer may hold"),
        ("used", "held_mean", "Held", "What each layer held, the mean over sequences and heads,"),
    ):
        rows = list(zip(*(row["layers"][key] for row in scales), strict=True))
        last = [row[-1] for row in rows]
        text = (
            f"{meaning} while each scale is generated. At the last scale {_tokens(min(last))} to "
            f"{_tokens(max(last))} tokens, most in layer {last.index(max(last))}."
        )
        full_title = f"{title} by layer and scale, tokens per head"
        table = Table(
            full_title,
            ["layer", *(f"scale {column}" for column in columns)],
            [[str(layer), *map(_tokens, row)] for layer, row in enumerate(rows)],
        )
        chart = heat_map(name, full_title, text, columns, rows, "tokens per head", most)
        made.append(Figure(chart, table))
    return made


def _settings(report: Mapping[str, Any]) -> list[Table]:
    """How the run was set and where it ran."""
    run = {
        "model": f"{report['model']['name']} ({report['model']['chosen_by']})",
        "device": report["device"],
        "dtype": report["dtype"],
        "started": report.get("started", ""),
        "scalekv": report["version"],
    }
    settings = {k: v for k, v in report.get("settings", {}).items() if k not in run}
    machine = dict(report.get("machine", {}))
    for key in [key for key in machine if key.endswith("_bytes")]:
        machine[key.removesuffix("_bytes")] = human_bytes(machine.pop(key))
    machine["peaks read from"] = "; ".join(report["read_from"])
    return [
        Table("Settings", ["setting", "value"], _pairs({**run, **settings})),
        Table("Machine", ["what", "value"], _pairs(machine)),
    ]


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


def _unit(most: float) -> tuple[int, str]:
    name = next((n for n in ("GiB", "MiB") if most >= UNITS[n]), "KiB")
    return UNITS[name], name


def _percent(part: float, whole: float) -> str:
    return f"{part / whole:.1%}" if whole else ""


def _tokens(count: float) -> str:
    return f"{count:g}" if float(count).is_integer() else f"{count:.1f}"
