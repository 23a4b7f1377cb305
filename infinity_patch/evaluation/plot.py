"""A plot of quality over bytes, from a result alone. Needs the extra `plots`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scalekv.configs.whole_files import replacing
from scalekv.infinity_patch.evaluation.tables import MEASURES

PANELS = ("psnr", "ssim", "lpips", "fid", "features", "forced")
"""What is plotted of what was taken."""
MIB = 2**20
STYLES = ("-", "--", ":", "-.")
MARKS = "osD^v"


def plot_quality(result: Mapping[str, Any], path: Path) -> None:
    """A panel a measure: its mean over what the cache held at most, a line a policy and dtype, bars
    for the 95 % intervals."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    variants = [facts for facts in result["variants"] if "ssim" in facts]
    panels = [name for name in PANELS if any(name in facts for facts in variants)] or ["ssim"]
    lines: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for facts in variants:
        lines.setdefault((facts["policy"], facts["kv_dtype"]), []).append(facts)
    policies = list(dict.fromkeys(policy for policy, _ in lines))
    dtypes = list(dict.fromkeys(dtype for _, dtype in lines))
    figure, axes = plt.subplots(
        1, len(panels), figsize=(4.4 * len(panels), 4.6), squeeze=False, layout="constrained"
    )
    for axis, name in zip(axes[0], panels, strict=True):
        for (policy, dtype), its in lines.items():
            points = sorted(
                ((facts["held_peak_bytes"] / MIB, facts[name]) for facts in its if name in facts),
                key=lambda point: float(point[0]),
            )
            if not points:
                continue
            values = [found.get("mean", found.get("value")) for _, found in points]
            bars = [
                [
                    abs(value - found.get(edge, value))
                    for (_, found), value in zip(points, values, strict=True)
                ]
                for edge in ("low", "high")
            ]
            axis.errorbar(
                [at for at, _ in points],
                values,
                yerr=bars,
                color=f"C{policies.index(policy) % 10}",
                marker=MARKS[dtypes.index(dtype) % len(MARKS)],
                linestyle=STYLES[dtypes.index(dtype) % len(STYLES)],
                markersize=4,
                linewidth=1.2,
                capsize=2,
                label=policy if dtype == "auto" else f"{policy}, {dtype}",
            )
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter(lambda value, _place: f"{value:.3g}")
        axis.set_xlabel("held at most (MiB)")
        axis.set_ylabel(MEASURES[name][0])
        axis.grid(alpha=0.3)
    handles, labels = axes[0][0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=6, frameon=False)
    with replacing(path) as hidden:
        figure.savefig(hidden, format="png", dpi=100, metadata={"Software": None})
    plt.close(figure)
