"""The memory report: a run's figures as plain JSON values, and as a table for people.

Knows the figures' names; every byte in it was measured by others. What its keys mean is written
in `report-1.schema.json`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from scalekv.cli.console.layout import Column, ResultTable, print_parts
from scalekv.configs.sparsity import Sparsity
from scalekv.kv.memory.denominators import LowerBound, uncompressed
from scalekv.kv.memory.predicted import CacheShape
from scalekv.kv.schedule import Schedule
from scalekv.kv.sizes import human_bytes

PARTS = {
    "transformer": "transformer",
    "vae": "VAE",
    "text_encoder": "text encoder",
    "cache_held": "cache held",
    "cache_index": "cache index",
    "cache_transient": "cache transient",
    "cache_constants": "cache constants",
    "recorded": "CUDA graphs",
    "everything_else": "everything else",
}
"""What memory is used for, and the words for it."""

STAGES = {
    "load": "load",
    "encode": "encode",
    "scales": "scales",
    "record": "record",
    "decode": "decode",
}

_WEIGHTS = ("transformer", "vae", "text_encoder")
_CACHE = {
    "cache_held": "held_peak_bytes",
    "cache_index": "index_peak_bytes",
    "cache_transient": "transient_peak_bytes",
}
_TOTALS = {
    "allocated_peak_bytes": "device_peak_bytes",
    "reserved_peak_bytes": "device_reserved_peak_bytes",
    "resident_peak_bytes": "process_peak_bytes",
}


def largest_cache(caches: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The ledger with the highest held peak; pictures run one after another, so it is the run's."""
    return max(caches, key=lambda cache: int(cache["held_peak_bytes"]), default={})


def memory_report(
    cache: Mapping[str, Any],
    weights: Mapping[str, int],
    stages: Mapping[str, Mapping[str, int]],
    present: Mapping[str, Mapping[str, int]],
    read_from: Sequence[str],
    sparsity: Sparsity | None = None,
    graphs: Mapping[str, Any] | None = None,
    alternative: str | None = None,
) -> dict[str, Any]:
    """The figures of a run.

    Args:
        cache: a ledger, with its scales and layers; empty where no picture was finished.
        weights: bytes of each part's tensors.
        stages: peaks of each stage in bytes, as measured.
        present: bytes of the weights by part that were there in each stage.
        read_from: what the peaks were read from, in words.
        sparsity: of the model's attention, where it was measured.
        graphs: what was recorded and replayed; None: the device has no graphs.
        alternative: a policy that would keep every token in as many bytes, where there is one.
    """
    kept = 0 if graphs is None else int(graphs["held_bytes"])
    ratios = {name: cache[name] for name in ("ratio_history", "ratio_all") if name in cache}
    totals = {
        total: max(peaks.get(kind, 0) for peaks in stages.values())
        for kind, total in _TOTALS.items()
        if any(kind in peaks for peaks in stages.values())
    }
    return {
        "cache": dict(cache),
        **ratios,
        **denominators(cache),
        "weights_bytes": {**weights, "all": sum(weights.values())},
        "memory": totals,
        "stages": {
            name: {**peaks, "parts": _parts(name, peaks, present.get(name, {}), cache, kept)}
            for name, peaks in stages.items()
        },
        "read_from": list(read_from),
        **({} if sparsity is None else {"sparsity": sparsity.to_dict()}),
        **({} if graphs is None else {"graphs": dict(graphs)}),
        **({} if alternative is None else {"alternative": alternative}),
    }


def denominators(cache: Mapping[str, Any]) -> dict[str, Any]:
    """What the held peak can be compared with: the full caches, and the lower bound's unit."""
    if not cache:
        return {}
    schedule, shape = Schedule.parse(cache["schedule"]), CacheShape(**cache["shape"])
    held = int(cache["held_peak_bytes"])
    places = shape.layers * shape.sequences * shape.heads
    return {
        "full_caches": [full.to_dict(held) for full in uncompressed(schedule, shape)],
        "lower_bound": LowerBound.of(schedule, shape.head_dim).to_dict(held, places),
    }


def peak_of(peaks: Mapping[str, Any]) -> int:
    """The peak of a stage where the model is: allocated on the device, else resident."""
    return int(peaks.get("allocated_peak_bytes", peaks.get("resident_peak_bytes", 0)))


def _parts(
    stage: str,
    peaks: Mapping[str, int],
    weights: Mapping[str, int],
    cache: Mapping[str, Any],
    recorded: int,
) -> dict[str, int]:
    """What a stage's peak consists of. Of the cache, each part's own peak is taken; while scales
    are replayed it lies in what is recorded."""
    parts = {name: int(weights.get(name, 0)) for name in _WEIGHTS}
    for name, peak in _CACHE.items():
        parts[name] = int(cache.get(peak, 0)) if stage == "scales" else 0
    constants = cache.get("coded", {}).get("constants_bytes", 0)
    parts["cache_constants"] = int(constants) if stage in ("scales", "decode") else 0
    parts["recorded"] = recorded if stage in ("encode", "decode") else 0
    parts["everything_else"] = max(peak_of(peaks) - sum(parts.values()), 0)
    return parts


def print_table(report: Mapping[str, Any], console: Console) -> None:
    """All figures of `memory_report`, and who drew, where that were several."""
    _print_rows(table_rows(report), console)
    if workers := worker_rows(report):
        columns = [
            Column(heading, rank=rank, right=number) for heading, rank, number in WORKER_COLUMNS
        ]
        print_parts(console, ResultTable(columns, workers))


def print_summary(report: Mapping[str, Any], console: Console, more: str = "") -> None:
    """The figures that everybody asks for, in three lines; and one for a policy that would drop
    nothing, where there is one.

    Args:
        more: where the others are.
    """
    rows = []
    cache = report["cache"]
    if cache:
        full = report["full_caches"][0]
        rows.append(
            ("held", int(cache["held_peak_bytes"]), f"the most the cache held: {_kept(cache)}")
        )
        rows.append(
            ("of", int(full["bytes"]), f"what a full cache holds; that is {full['ratio']:.1%}")
        )
        if (other := _alternative(report)) is not None:
            remark = f"--policy {other}, which keeps every token"
            rows.append(("or", int(cache["held_peak_bytes"]), remark))
    memory = report["memory"]
    suffix = f"; more in {more}" if more else ""
    for total, where in (("device_peak_bytes", "device"), ("process_peak_bytes", "process")):
        if total in memory:
            rows.append(("peak", memory[total], f"the most memory of the {where}{suffix}"))
            break
    _print_rows(rows, console)


def _alternative(report: Mapping[str, Any]) -> str | None:
    """A policy that would have kept every token in as many bytes, where this one dropped some."""
    cache = report["cache"]
    drops = "coded" not in cache and (cache.get("budget") or {}).get("evicts")
    other: str | None = report.get("alternative") if drops else None
    return other


def _print_rows(rows: Sequence[tuple[str, int, str]], console: Console) -> None:
    columns = (
        Column("", right=False),
        Column(""),
        Column("", rank=1, right=False, style="dim", wraps=True),
    )
    print_parts(console, ResultTable(columns, [(a, human_bytes(count), b) for a, count, b in rows]))


WORKER_COLUMNS = (
    ("worker", 0, False),
    ("device", 3, False),
    ("pictures", 0, True),
    ("s a picture", 1, True),
    ("peak", 2, True),
    ("", 0, False),
)
"""Headings of `worker_rows`; how soon each goes where there is no room; whether it has numbers."""

WORKER_HEADS = tuple(heading for heading, _, _ in WORKER_COLUMNS)


def worker_rows(report: Mapping[str, Any]) -> list[list[str]]:
    """A row for every worker of a cluster, under `WORKER_HEADS`, and one for all of them together;
    [] where a batch was drawn by one process."""
    workers = report.get("workers", [])
    rows = [
        [
            worker["name"],
            worker["device_name"] or worker["device"],
            str(worker["pictures"]),
            _seconds_each(worker["seconds"]["drawing"], worker["pictures"]),
            human_bytes(worker["peak_bytes"]),
            f"lost: {worker['lost']}" if worker["lost"] else "",
        ]
        for worker in workers
    ]
    if len(workers) > 1:
        pictures = sum(worker["pictures"] for worker in workers)
        drawing = sum(worker["seconds"]["drawing"] for worker in workers)
        # those that were lost had ended before others began
        peak = sum(worker["peak_bytes"] for worker in workers if not worker["lost"])
        each = _seconds_each(drawing, pictures)
        rows.append(["all", "", str(pictures), each, human_bytes(peak), ""])
    return rows


def _seconds_each(seconds: float, pictures: int) -> str:
    return f"{seconds / pictures:.2f}" if pictures else ""


def table_rows(report: Mapping[str, Any]) -> list[tuple[str, int, str]]:
    """Label, bytes and remark of every figure, in the order they are shown."""
    rows = _cache_rows(report) if report["cache"] else []
    for part, count in report["weights_bytes"].items():
        if part != "all":
            remark = _of_prompts(report) if part == "text_encoder" else ""
            rows.append((f"weights, {PARTS.get(part, part)}", count, remark))
    for stage, peaks in report["stages"].items():
        else_ = human_bytes(peaks["parts"]["everything_else"])
        remark = f"{else_} besides weights and cache"
        if "reserved_peak_bytes" in peaks:
            remark += f"; reserved {human_bytes(peaks['reserved_peak_bytes'])}"
        rows.append((f"peak, {STAGES.get(stage, stage)}", peak_of(peaks), remark))
    graphs = report.get("graphs", {})
    if graphs.get("recorded") or graphs.get("eager"):
        reasons = "; ".join(f"not recorded: {reason}" for reason in graphs["eager"])
        remark = f"{graphs['replayed']} batches replayed" if graphs["recorded"] else ""
        remark = "; ".join(filter(None, (remark, reasons)))
        rows.append(("CUDA graphs", graphs["held_bytes"], remark))
    memory = report["memory"]
    if "device_peak_bytes" in memory:
        rows.append(("device, peak allocated", memory["device_peak_bytes"], "everything on it"))
    if "process_peak_bytes" in memory:
        rows.append(("process, peak resident", memory["process_peak_bytes"], "everything in it"))
    return rows


def _of_prompts(report: Mapping[str, Any]) -> str:
    """What a text cache had to do with the text encoder."""
    kept = report.get("text_cache")
    if kept is None:
        return ""
    count = f"{kept['found']} of {kept['found'] + kept['made']} prompts were in the text cache"
    return count if kept["made"] else f"not read: {count}"


def _cache_rows(report: Mapping[str, Any]) -> list[tuple[str, int, str]]:
    cache, kinds = report["cache"], report.get("kinds", [])
    of = pictures_of_kind(kinds[0]) if len(kinds) > 1 else ""
    rows = [("cache held, peak", cache["held_peak_bytes"], _held(cache) + of)]
    for kind in kinds[1:]:
        remark = f"policy {kind['policy']}, budget {kind['budget']}{pictures_of_kind(kind)}"
        rows.append(("  others, peak", kind["held_peak_bytes"], remark))
    if cache.get("scales"):
        last = tokens_bytes(cache["scales"][-1])
        share = f"{last / cache['full_bytes']:.1%} of the history" if cache["full_bytes"] else ""
        rows.append(("cache held, last scale", last, f"{share}; the peak is between scales"))
    if (other := _alternative(report)) is not None:
        remark = f"--policy {other} keeps every token in as many: docs/coded.md"
        rows.append(("  or, coded", cache["held_peak_bytes"], remark))
    if "coded" in cache:
        constants = int(cache["coded"]["constants_bytes"])
        share = (cache["held_peak_bytes"] + constants) / max(cache["full_bytes"], 1)
        remark = f"of the model, once for any batch; held and constants are {share:.1%}"
        rows.append(("cache constants", constants, f"{remark} of the history"))
    rows += [
        ("cache index, peak", cache["index_peak_bytes"], "positions of held tokens, and notes"),
        ("cache transient, peak", cache["transient_peak_bytes"], "while one layer attends"),
    ]
    for full in report["full_caches"]:
        tokens = cache["total_tokens"] if full["last_scale"] else cache["history_tokens"]
        label = "full cache, all scales" if full["last_scale"] else "full cache, history"
        dtypes = "published code's dtypes" if full["official"] else "same dtype"
        remark = f"{tokens} tokens, {dtypes}; held peak is {full['ratio']:.1%} of it"
        rows.append((label, full["bytes"], remark))
    return rows


def tokens_bytes(row: Mapping[str, Any]) -> int:
    """Bytes of the tokens held while a scale is generated; of reports that do not tell them from
    the room they are in, that room."""
    return int(row.get("tokens_bytes", row["held_bytes"]))


def pictures_of_kind(kind: Mapping[str, Any]) -> str:
    """How many pictures are of it, to be put behind its name."""
    return " (1 picture)" if kind["pictures"] == 1 else f" ({kind['pictures']} pictures)"


def _kept(cache: Mapping[str, Any]) -> str:
    budget = cache.get("budget")
    return f"policy {cache['policy']}" + (f", budget {budget['label']}" if budget else "")


def _held(cache: Mapping[str, Any]) -> str:
    budget = cache.get("budget")
    kept = _kept(cache)
    if not budget:
        return f"{kept}: nothing is dropped"
    if "coded" in cache and cache["coded"]["first_coded_scale"] is not None:
        first = cache["coded"]["first_coded_scale"]
        return f"{kept}: every token, in few bits from scale {first} on"
    if not budget["evicts"]:
        return f"{kept}: nothing is dropped"
    return f"{kept}: {budget['mean']} tokens per layer and head on average"
