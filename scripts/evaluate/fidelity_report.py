"""A table and a plot of fidelity measurements, from their rows alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from scripts.evaluate.measures import interval, mean, median
from scripts.evaluate.rows import Row

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
    lines += ["", "Equal bits per scale, means with 95 % intervals:", ""]
    lines.append(_row(["policy", "budget", "held as", *(str(k + 1) for k in range(scales))]))
    lines.append(_row(["---"] * (scales + 3)))
    for (policy, budget, kept), its in found.items():
        per_scale = [[row["bits"][scale] for row in its] for scale in range(scales)]
        shares = [shown(interval(shares, mean), 3) for shares in per_scale]
        lines.append(_row([policy, budget, kept, *shares]))
    return "\n".join(lines) + "\n"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def plot(rows: Sequence[Row], path: Path) -> None:
    """PSNR, SSIM and feature distance by budget, a line a policy, bars for the intervals."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    found = {v: its for v, its in by_variant(rows).items() if v[1] != "full"}
    budgets = sorted(dict.fromkeys(budget for _, budget, _ in found), key=_is_name)
    policies = list(dict.fromkeys(policy for policy, _, _ in found))
    dtypes = list(dict.fromkeys(kept for _, _, kept in found))
    lines = list(dict.fromkeys((policy, kept) for policy, _, kept in found))
    figure, panels = plt.subplots(1, len(MEASURES), figsize=(4.4 * len(MEASURES), 4.6))
    for panel, (measure, title) in zip(panels, MEASURES.items(), strict=True):
        for place, (policy, kept) in enumerate(lines):
            shift = 0.05 * (place - (len(lines) - 1) / 2)
            points: list[tuple[float, float, float, float]] = []
            names: list[bool] = []
            for x, budget in enumerate(budgets):
                if (policy, budget, kept) in found:
                    value, low, high = summary(found[policy, budget, kept], measure)
                    if math.isfinite(value):
                        points.append((x + shift, value, value - low, min(high, 1e9) - value))
                        names.append(_is_name(budget))
            looks = {
                "color": f"C{policies.index(policy) % 10}",
                "marker": "osD^v"[dtypes.index(kept) % 5],
                "markersize": 4,
                "linewidth": 1.2,
                "capsize": 2,
                "label": policy if kept == "auto" else f"{policy}, {kept}",
            }
            dashes = ("-", "--", ":", "-.")[dtypes.index(kept) % 4]
            for named, style in ((False, dashes), (True, "")):  # a named budget is no next step
                of_policy = [
                    point for point, name in zip(points, names, strict=True) if name is named
                ]
                if of_policy:
                    x_at, middle, below, above = (list(c) for c in zip(*of_policy, strict=True))
                    panel.errorbar(x_at, middle, yerr=[below, above], linestyle=style, **looks)
                    looks.pop("label", None)
        panel.set_xticks(range(len(budgets)), [name.replace("-", "-\n") for name in budgets])
        panel.set_xlabel("budget")
        panel.set_ylabel(title)
        panel.grid(alpha=0.3)
    if found:
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="lower center", ncols=7, fontsize=8, frameon=False)
    figure.tight_layout(rect=(0, 0.1, 1, 1))
    figure.savefig(path, dpi=100, metadata={"Software": None})
    plt.close(figure)


def _is_name(budget: str) -> bool:
    """Whether a budget is a name or a number of tokens and no share, which can be ordered."""
    return not budget.endswith("%")


def write_report(settings: Row, rows: Sequence[Row], out: Path) -> Path:
    """Write table.md and plot.png; the path of the table."""
    assert rows, "nothing was measured"
    out.mkdir(parents=True, exist_ok=True)
    (out / "table.md").write_text(table(settings, rows), encoding="utf-8")
    plot(rows, out / "plot.png")
    return out / "table.md"
