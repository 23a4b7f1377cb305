"""PSNR over bytes, all policies: the figure of the README, from the tables of two pages.

python -m scripts.evaluate.coded_figure
"""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = ("docs/fidelity.md", "docs/coded.md")
FIGURE = ROOT / "docs/images/coded.png"
ROW = re.compile(
    r"^\| ([a-z0-9-]+) \| ([\d.]+)% \|(?: auto \|)? \d+ \|(?: [\d.]+ % \|)?"
    r" ([\d.]+) \(([\d.]+) to ([\d.]+)\)"
)
"""Of a table: policy, budget, held as it is computed where that is said, pictures, the share that
is held where that is said, PSNR."""

Point = tuple[float, float, float, float]
"""Percent of the history's bytes; PSNR, and its interval."""


def points() -> dict[str, list[Point]]:
    """Of every policy the pages' tables have, budgets falling."""
    found: dict[str, dict[float, Point]] = {}
    for page in PAGES:
        for line in (ROOT / page).read_text(encoding="utf-8").splitlines():
            if match := ROW.match(line):
                numbers = [float(number) for number in match.groups()[1:]]
                point = (numbers[0], numbers[1], numbers[2], numbers[3])
                found.setdefault(match[1], {})[point[0]] = point
    return {name: [of[share] for share in sorted(of, reverse=True)] for name, of in found.items()}


def main() -> None:
    """Draws the figure."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.2), dpi=110, layout="constrained")
    axes = figure.subplots()
    for name, its in points().items():
        shares, values, low, high = (list(column) for column in zip(*its, strict=True))
        coded = name == "coded"
        errors = [
            [value - at for value, at in zip(values, low, strict=True)],
            [at - value for value, at in zip(values, high, strict=True)],
        ]
        axes.errorbar(
            shares,
            values,
            errors,
            label=name,
            marker="o",
            markersize=4,
            capsize=2,
            linewidth=2.5 if coded else 1,
            color="black" if coded else None,
            zorder=3 if coded else 2,
        )
    axes.set_xscale("log")
    ticks = [1, 2.5, 5, 10, 20, 50]
    axes.set_xticks(ticks, [f"{tick:g} %" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set(xlabel="held at most, of the history's bytes", ylabel="PSNR to the full cache (dB)")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", ncols=2)
    figure.savefig(FIGURE, metadata={"Software": None})
    print(FIGURE.relative_to(ROOT))


if __name__ == "__main__":
    main()
