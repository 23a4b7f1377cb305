"""The memory report: the run's figures as plain JSON values, and as a table for people.

Knows the figures' names; every byte in it was measured by others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

PARTS = {"transformer": "transformer", "vae": "VAE", "text_encoder": "text encoder"}

NARROW = 70  # columns; below that a table's remarks would be a word wide


def human_bytes(count: int) -> str:
    """Bytes in the binary unit that leaves one to four digits before the point: "1.5 MiB"."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{count} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def largest_cache(caches: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The ledger with the highest held peak; pictures run one after another, so it is the run's."""
    return max(caches, key=lambda cache: int(cache["held_peak_bytes"]), default={})


def memory_report(
    cache: Mapping[str, Any], weights: Mapping[str, int], peaks: Mapping[str, int]
) -> dict[str, Any]:
    """The figures of a run.

    Args:
        cache: a ledger, with its scales and layers; empty where no picture was finished.
        weights: bytes of each part's tensors.
        peaks: of process and device, as measured.
    """
    ratios = {name: cache[name] for name in ("ratio_history", "ratio_all") if name in cache}
    return {
        "cache": dict(cache),
        **ratios,
        "weights_bytes": {**weights, "all": sum(weights.values())},
        "memory": dict(peaks),
    }


def print_table(report: Mapping[str, Any], console: Console) -> None:
    """The figures of `memory_report` as a table; where there is no room for one, as a list."""
    rows = [(label, human_bytes(count), remark) for label, count, remark in _rows(report)]
    if console.width < NARROW:
        console.print("Memory", style="bold")
        for label, size, remark in rows:
            console.print(f" {label}: {size}")
            if remark:
                console.print(Padding(Text(remark, style="dim"), (0, 0, 0, 3)))
        return
    table = Table(title="Memory", title_justify="left", title_style="bold", box=None)
    table.add_column("")
    table.add_column("bytes", justify="right", no_wrap=True)
    table.add_column("", style="dim")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def _rows(report: Mapping[str, Any]) -> list[tuple[str, int, str]]:
    rows: list[tuple[str, int, str]] = []
    cache = report["cache"]
    if cache:
        history = f"{cache['history_tokens']} tokens of history"
        everything = f"{cache['total_tokens']} tokens of all scales"
        rows = [("cache held, peak", cache["held_peak_bytes"], _held(cache))]
        if cache.get("scales"):
            last = cache["scales"][-1]["held_bytes"]
            share = f"{last / cache['full_bytes']:.1%} of the history"
            rows.append(("cache held, last scale", last, f"{share}; the peak is between scales"))
        rows += [
            ("cache transient, peak", cache["transient_peak_bytes"], "while one layer attends"),
            (
                "full cache, history",
                cache["full_bytes"],
                f"{history}, same dtype; held peak is {cache['ratio_history']:.1%} of it",
            ),
            (
                "full cache, all scales",
                cache["full_bytes_all"],
                f"{everything}, same dtype; held peak is {cache['ratio_all']:.1%} of it",
            ),
        ]
    for part, count in report["weights_bytes"].items():
        if part != "all":
            rows.append((f"weights, {PARTS.get(part, part)}", count, ""))
    memory = report["memory"]
    if "device_peak_bytes" in memory:
        rows.append(("device, peak allocated", memory["device_peak_bytes"], "everything on it"))
    if "process_peak_bytes" in memory:
        rows.append(("process, peak resident", memory["process_peak_bytes"], "everything in it"))
    return rows


def _held(cache: Mapping[str, Any]) -> str:
    budget = cache.get("budget")
    if not budget:
        return f"policy {cache['policy']}: nothing is dropped"
    if not budget["evicts"]:
        return f"policy {cache['policy']}, budget {budget['label']}: nothing is dropped"
    return (
        f"policy {cache['policy']}, budget {budget['label']}: "
        f"{budget['mean']} tokens per layer and head on average"
    )
