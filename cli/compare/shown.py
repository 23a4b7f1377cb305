"""A comparison as people read it. Knows the figures' names; every one was measured by others."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from scalekv.cli.console.layout import Column, Paragraph, ResultTable, print_parts
from scalekv.kv.sizes import human_bytes

COLUMNS_EXPLAINED = (
    "PSNR (dB, the median) and SSIM (1 is the same, the mean) say how like the full cache's "
    "pictures the others are: higher is closer; least is the picture that is furthest off, equal "
    "counts those that are the same bit for bit. Held is the most a cache held, of full its share "
    "of the full cache."
)
"""What the table says, for who sees it the first time."""
BITS_EXPLAINED = (
    " Bits is the share of the full cache's that it would have drawn, had it seen them."
)


def show_variants(variants: Sequence[Mapping[str, Any]], pictures: int, console: Console) -> None:
    """Prints a row for each variant, and what the columns are.

    Args:
        variants: as `scalekv compare --json` has them, the full cache first.
        pictures: of each.
    """
    forced = any("bits" in facts for facts in variants)
    columns = (
        Column("cache", right=False),
        Column("PSNR", rank=1),
        Column("least", rank=5),
        Column("SSIM", rank=2),
        Column("least", rank=6),
        Column("equal", rank=7),
        *([Column("bits", rank=2)] if forced else []),
        Column("held"),
        Column("of full", rank=3),
        Column("seconds", rank=4),
    )
    rows = [
        (
            facts["label"],
            _number(facts.get("psnr_db", {}).get("median"), ".1f"),
            _number(facts.get("psnr_db", {}).get("min"), ".1f"),
            _number(facts.get("ssim", {}).get("mean"), ".3f"),
            _number(facts.get("ssim", {}).get("min"), ".3f"),
            str(facts.get("identical", "")),
            *([f"{facts['bits']['agreement']:.1%}"] if forced else []),
            human_bytes(facts["held_peak_bytes"]),
            f"{facts['ratio_history']:.1%}",
            f"{facts['seconds']['median']:.2f}",
        )
        for facts in variants
    ]
    count = "1 picture" if pictures == 1 else f"{pictures} pictures"
    print_parts(
        console,
        Paragraph(f"Against the full cache, {count} each", "bold"),
        ResultTable(columns, rows),
        Paragraph(COLUMNS_EXPLAINED + (BITS_EXPLAINED if forced else ""), "dim"),
    )


def _number(value: float | None, form: str) -> str:
    return "" if value is None or math.isinf(value) else format(value, form)
