"""A plan as people read it: what it is for, memory by part and stage, other budgets.

Knows the figures' names; every byte was worked out by others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.text import Text

from scalekv.cli.console.layout import Column, Paragraph, ResultTable
from scalekv.cli.console.stdout import show
from scalekv.cli.report.figures import PARTS
from scalekv.infinity_patch.planning.planner import MOST_PICTURES
from scalekv.kv.sizes import human_bytes


def show_plan(figures: Mapping[str, Any], *, bound: bool) -> None:
    """Writes a plan to stdout.

    Args:
        figures: as `scalekv plan --json` has them.
        bound: with what theory knows of caches.
    """
    device, memory = figures["device"], figures["device"]["memory_bytes"]
    needed = f"needed: {human_bytes(figures['needed_bytes'])}"
    if memory is not None:
        left = memory - figures["needed_bytes"]
        verdict = f"fits, {human_bytes(left)} left" if left >= 0 else "does not fit"
        needed += f" of {human_bytes(memory)}: {verdict}"
    besides = "the fullest stage and what the process takes besides"
    if device["type"] == "cuda":
        besides += ", and 4% that the allocator cannot use"
    show(
        *map(Paragraph, _lines(figures)),
        Text(),
        _parts(figures),
        Text(),
        Paragraph(needed, "bold"),
        Paragraph(besides, "dim"),
        Text(),
        _of_budgets(figures),
    )
    if bound:
        show(Text(), *_of_bound(figures))


def _lines(figures: Mapping[str, Any]) -> Iterator[str]:
    """What the plan is for, and what the cache comes to."""
    budget, coded = figures["budget"], figures.get("coded")
    kept = "" if budget is None else f", budget {budget['label']} ({budget['mean']} tokens a layer)"
    if coded is not None:
        kept = f", budget {budget['label']} ({human_bytes(coded['budget_bytes'])}, every token)"
    count = figures["pictures"]
    together = "1 picture" if count == 1 else f"{count} pictures at once"
    size = "{width}x{height}".format(**figures["size"])
    held, full = figures["cache"]["held_peak_bytes"], figures["full_caches"][0]
    numbers = figures["weights_dtype"]
    weights = "" if numbers == figures["dtype"] else f", weights in {numbers}"
    yield f"{figures['model']}, {figures['dtype']}{weights} on {figures['device']['name']}"
    if figures["options"]:
        yield f"{figures['options']}: taken because otherwise it would not fit"
    yield f"{together} of {size} pixels, policy {figures['policy']}{kept}"
    yield (
        f"cache in {figures['kv_dtype']}: at most {human_bytes(held)} held at any moment, "
        f"{full['ratio']:.1%} of a full cache"
    )
    if coded is not None:
        constants = coded["constants_bytes"]
        share = (held + constants) / max(full["bytes"], 1)
        yield (
            f"constants {human_bytes(constants)}, once for any batch; held and constants are "
            f"{share:.1%} of the full cache"
        )
    elif figures.get("alternative"):
        yield "--policy coded keeps every token in as many bytes: docs/coded.md"
    elif "calibrating_coded" in figures:
        takes = figures["calibrating_coded"]
        more = takes["gradients"]
        yield (
            "--policy coded would keep every token in as many bytes (docs/coded.md), once "
            "calibrate --coded has measured the model: that takes "
            f"{human_bytes(takes['device_bytes'])} beside a full cache and "
            f"{human_bytes(takes['host_bytes'])} in the host's memory, or with --gradients "
            f"{human_bytes(more['device_bytes'])} and {human_bytes(more['host_bytes'])}"
        )


def _of_bound(figures: Mapping[str, Any]) -> Iterator[Paragraph]:
    """What theory says of a cache, beside what this one holds."""
    bound = figures["lower_bound"]
    yield Paragraph(
        f"held: {bound['held_bits_per_unit']:.3g} bits per bit of n² d = {bound['unit_bits']} "
        f"(n {bound['n']:.4g}, d {bound['d']}) in each head and layer"
    )
    yield Paragraph(bound["meaning"], "dim")
    if "sparsity" in figures:
        yield Paragraph(figures["sparsity"]["meaning"], "dim")


def _parts(figures: Mapping[str, Any]) -> ResultTable:
    from scalekv.cli.console.layout import ResultTable

    stages: dict[str, dict[str, int]] = figures["stages"]
    names = {**PARTS, "everything_else": "activations"}
    rows = [
        [label, *(human_bytes(parts[name]) if parts[name] else "" for parts in stages.values())]
        for name, label in names.items()
        if any(parts[name] for parts in stages.values())
    ]
    rows.append(["all", *(human_bytes(count) for count in figures["totals"].values())])
    # The fullest stage is what counts: it goes last.
    columns = [Column(name, rank=int(name != figures["fullest"])) for name in stages]
    return ResultTable([Column("", right=False), *columns], rows)


def _of_budgets(figures: Mapping[str, Any]) -> ResultTable:
    from scalekv.cli.console.layout import ResultTable

    known = figures["fits"] is not None
    columns = [
        Column("budget", right=False),
        Column("tokens", rank=3),
        Column("cache held", rank=1),
        Column("needed", rank=2),
        *([Column("fits"), Column("largest batch")] * known),
    ]
    rows = [
        [
            ("> " if row["asked"] else "  ") + row["budget"],
            str(row["tokens"]),
            human_bytes(row["held_peak_bytes"]),
            human_bytes(row["needed_bytes"]),
            *(["yes" if row["fits"] else "no", _batch(row["largest_batch"])] if known else []),
        ]
        for row in figures["budgets"]
    ]
    return ResultTable(columns, rows)


def _batch(largest: int) -> str:
    return f"{largest} or more" if largest == MOST_PICTURES else str(largest or "none")
