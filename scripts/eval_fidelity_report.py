"""A table and a plot of fidelity measurements, from their rows alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scripts.eval_measures import interval, mean, median
from scripts.eval_rows import Row

Variant = tuple[str, str, str]  # policy, budget, dtype of held tokens
MEASURES = {"psnr": "PSNR to full (dB)", "ssim": "SSIM", "features": "feature distance"}


def share(budget: str) -> float:
    """The part of the history a budget such as "10%" keeps; 1 for the full cache, else 0."""
    if budget == "full":
        return 1.0
    try:
        return float(budget.removesuffix("%")) / 100
    except ValueError:
        return 0.0


def by_variant(rows: Sequence[Row]) -> dict[Variant, list[Row]]:
    """The rows of every variant, budgets falling, policies in the order they came."""
    found: dict[Variant, list[Row]] = {}
    for row in rows:
        found.setdefault((row["policy"], row["budget"], row["kv_dtype"]), []).append(row)
    ordered = sorted(found, key=lambda v: -share(v[1]))
    return {v: sorted(found[v], key=lambda row: int(row["number"])) for v in ordered}


def values(rows: Sequence[Row], measure: str) -> list[float]:
    """One measure of rows; a PSNR of none is that of equal pictures, infinite."""
    return [math.inf if row[measure] is None else float(row[measure]) for row in rows]


def summary(rows: Sequence[Row], measure: str) -> tuple[float, float, float]:
    """The value of a measure over prompts, and its 95 % interval: PSNR's median, else the mean."""
    return interval(values(rows, measure), median if measure == "psnr" else mean)


def shown(found: tuple[float, float, float], digits: int) -> str:
    """A value and its interval, for a table."""
    value, low, high = (
        "equal" if math.isinf(number) else f"{number:.{digits}f}" for number in found
    )
    return value if value == low == high else f"{value} ({low} to {high})"


def table(settings: Row, rows: Sequence[Row]) -> str:
    """Markdown: a line a variant, then the bits per scale."""
    found = by_variant(rows)
    more = [name for name in ("lpips",) if all(name in row for row in rows)]
    head = [
        "policy",
        "budget",
        "held as",
        "prompts",
        *MEASURES.values(),
        *more,
        "equal bits",
        "same picture",
    ]
    lines = [
        f"Model {settings['model']}, {settings['dtype']} on {settings['device']}, seeds from "
        f"{settings['seed']}. Against the full cache at equal prompts and seeds; medians (PSNR) "
        "and means over prompts with 95 % bootstrap intervals. The feature distance is that of "
        "EfficientNet-Lite0's maps, not LPIPS.",
        "",
        _row(head),
        _row(["---"] * len(head)),
    ]
    for (policy, budget, kept), its in found.items():
        same = sum(row["psnr"] is None for row in its)
        lines.append(
            _row(
                [
                    policy,
                    budget,
                    kept,
                    str(len(its)),
                    shown(summary(its, "psnr"), 1),
                    *(shown(summary(its, name), 4) for name in ("ssim", "features", *more)),
                    f"{np.mean([np.mean(row['bits']) for row in its]):.3f}",
                    str(same),
                ]
            )
        )
    scales = len(rows[0]["bits"])
    lines += ["", "Equal bits per scale:", ""]
    lines.append(_row(["policy", "budget", "held as", *(str(k + 1) for k in range(scales))]))
    lines.append(_row(["---"] * (scales + 3)))
    for (policy, budget, kept), its in found.items():
        per_scale = np.mean([row["bits"] for row in its], axis=0)
        lines.append(_row([policy, budget, kept, *(f"{part:.3f}" for part in per_scale)]))
    return "\n".join(lines) + "\n"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def plot(rows: Sequence[Row], path: Path) -> None:
    """PSNR, SSIM and feature distance by budget, a line a policy, bars for the intervals."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    found = {v: its for v, its in by_variant(rows).items() if v[1] != "full"}
    budgets = list(dict.fromkeys(budget for _, budget, _ in found))
    lines = list(dict.fromkeys((policy, kept) for policy, _, kept in found))
    figure, panels = plt.subplots(1, len(MEASURES), figsize=(4.2 * len(MEASURES), 3.6))
    for panel, (measure, title) in zip(panels, MEASURES.items(), strict=True):
        for place, (policy, kept) in enumerate(lines):
            name = policy if kept == "auto" else f"{policy}, {kept}"
            shift = 0.04 * (place - (len(lines) - 1) / 2)
            points: list[Any] = []
            for x, budget in enumerate(budgets):
                if (policy, budget, kept) in found:
                    value, low, high = summary(found[policy, budget, kept], measure)
                    if math.isfinite(value):
                        points.append((x + shift, value, value - low, min(high, 1e9) - value))
            if points:
                x_at, middle, below, above = (list(column) for column in zip(*points, strict=True))
                panel.errorbar(
                    x_at, middle, yerr=[below, above], label=name, marker="o", markersize=3.5,
                    linewidth=1.2, capsize=2,
                )  # fmt: skip
        panel.set_xticks(range(len(budgets)), budgets)
        panel.set_xlabel("budget of history")
        panel.set_ylabel(title)
        panel.grid(alpha=0.3)
    if found:
        panels[0].legend(fontsize=7, frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)


def write_report(settings: Row, rows: Sequence[Row], out: Path) -> Path:
    """Write table.md and plot.png; the path of the table."""
    assert rows, "nothing was measured"
    out.mkdir(parents=True, exist_ok=True)
    (out / "table.md").write_text(table(settings, rows), encoding="utf-8")
    plot(rows, out / "plot.png")
    return out / "table.md"
