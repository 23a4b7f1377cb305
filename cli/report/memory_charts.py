"""Charts of the memory report, with their tables. Knows what is shown; `charts` draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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
from scalekv.cli.report.figures import PARTS, STAGES, peak_of, tokens_bytes
from scalekv.kv.sizes import UNITS, human_bytes


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


def charts_of(report: Mapping[str, Any]) -> list[Figure]:
    """Bytes by scale, by stage and beside full caches, as far as the report has them."""
    cache, charts = report["cache"], []
    if cache.get("scales"):
        charts += [_held_chart(cache), _share_chart(report, cache)]
    if report["stages"]:
        charts.append(_stage_chart(report))
    if cache:
        charts.append(_full_chart(report, cache))
    return charts


def _held_chart(cache: Mapping[str, Any]) -> Figure:
    """Held bytes while each scale is generated, drafters' and refiners' apart."""
    scales = cache["scales"]
    groups = _groups(cache)
    size, unit = _unit(max(map(tokens_bytes, scales)))
    series = [
        Series(label, colour, [sum(row) / size for row in rows])
        for (label, rows), colour in zip(groups.items(), (RED, BLUE), strict=False)
    ]
    last = scales[-1]
    text = (
        f"While the last scale was generated {human_bytes(tokens_bytes(last))} were held; the most "
        f"that room for tokens took at any moment was {human_bytes(cache['held_peak_bytes'])}. "
        + ("Drafters are the layers that were given more. " if len(groups) == 2 else "")
        + _evicting(cache)
    )
    of = [f"of it {name}" for name in groups]
    head = ["scale", "map", "history tokens", "held", *of, "room", "index", "transient"]
    rows = [
        [
            str(row["scale"]),
            f"{row['height']} × {row['width']}",
            str(row["history_tokens"]),
            human_bytes(tokens_bytes(row)),
            *(human_bytes(sum(by_scale[place])) for by_scale in groups.values()),
            human_bytes(row["held_bytes"]),
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
    by_layer = [row["layers"] for row in cache["scales"]]
    rows = [layers.get("tokens_bytes", layers["held_bytes"]) for layers in by_layer]
    if not any(drafters):
        return {"all layers": rows}
    # Before anything is dropped no layer is given more: the drafters to come are counted as such.
    first = next(row for row in drafters if row)
    by_scale = [set(drafters[place] or first) for place in range(len(rows))]
    return {
        name: [
            [count for layer, count in enumerate(row) if (layer in chosen) is wanted]
            for row, chosen in zip(rows, by_scale, strict=True)
        ]
        for name, wanted in (("drafters", True), ("refiners", False))
    }


def _evicting(cache: Mapping[str, Any]) -> str:
    if "coded" in cache and (first := cache["coded"]["first_coded_scale"]):
        return f"Tokens are coded from scale {first} on."
    for row in cache["scales"]:
        if any(capacity < row["history_tokens"] for capacity in row["layers"]["capacity"]):
            return f"The budget holds from scale {row['scale']} on."
    return "All tokens of history fit at every scale: nothing was dropped."


def _share_chart(report: Mapping[str, Any], cache: Mapping[str, Any]) -> Figure:
    """The same bytes as part of those of a cache that drops nothing."""
    scales = cache["scales"]
    per_token = report["full_caches"][0]["bytes"] / max(int(cache["history_tokens"]), 1)
    full = [per_token * row["history_tokens"] for row in scales]
    size, unit = _unit(max(full))
    held = [tokens_bytes(row) for row in scales]
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
        Series(
            label, colours[part], [peaks["parts"].get(part, 0) / size for peaks in stages.values()]
        )
        for part, label in PARTS.items()
        if any(peaks["parts"].get(part, 0) for peaks in stages.values())
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
            *(human_bytes(peaks["parts"].get(part, 0)) for part in PARTS),
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


def maps_of(cache: Mapping[str, Any]) -> list[Figure]:
    """Layer by scale: what could be held and what was."""
    scales = cache.get("scales")
    if not scales:
        return []
    columns = [str(row["scale"]) for row in scales]
    most = max(max(row["layers"]["capacity"]) for row in scales)
    maps = []
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
        maps.append(Figure(chart, table))
    return maps


def _unit(most: float) -> tuple[int, str]:
    name = next((n for n in ("GiB", "MiB") if most >= UNITS[n]), "KiB")
    return UNITS[name], name


def _percent(part: float, whole: float) -> str:
    return f"{part / whole:.1%}" if whole else ""


def _tokens(count: float) -> str:
    return f"{count:g}" if float(count).is_integer() else f"{count:.1f}"
