"""The command `scalekv plan`: its options, and what of a plan is shown."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from scalekv.cli import options as given
from scalekv.configs.option import MACHINE

if TYPE_CHECKING:
    from rich.console import Console

    from scalekv.cli.plan.room import Target
    from scalekv.infinity_patch.planning.footprint import Footprint, Work
    from scalekv.infinity_patch.planning.planner import Planner

FORMAT = 1
"""Version of the JSON; raised when a key changes its meaning."""

BUDGETS = ("full", "50%", "20%", "10%", "4%")
"""Budgets of the table, besides the one asked for."""

HELP = (
    "Say what a run would take in memory, part by part, without loading anything.\n\n"
    "It says whether that fits, and what does: the largest batch for each budget, or with --fit "
    "the largest batch or the largest budget. The cache's bytes are exact; the rest is within a "
    "few percent, see docs/memory.md. Without --check the exit code is 0 though it does "
    "not fit."
)
EPILOG = """
Examples:

  scalekv plan --model infinity-8b --batch-size 8 --budget 10% --gpu-memory 80GB

  scalekv plan --model infinity-2b --device cuda --fit batch

  scalekv plan --model infinity-2b --gpu-memory 24GB --check >/dev/null || echo "too small"

  scalekv plan --model infinity-8b --batch-size 4 --gpu-memory 40GB --fit budget --json

"""


class Fit(StrEnum):
    """What is made as large as fits."""

    BATCH = "batch"
    BUDGET = "budget"


@given.takes_options("plan")
def plan(
    batch_size: Annotated[
        str | None,
        typer.Option(
            *given.BATCH_SIZE,
            metavar="N",
            help="Pictures that go through the model together; auto plans for 1."
            + given.default_note("auto"),
            autocompletion=given.completes("batch_size"),
            show_default=False,
        ),
    ] = None,
    gpu_memory: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Plan for a CUDA device with this much memory: 80GB, 24GiB.",
            rich_help_panel=MACHINE,
        ),
    ] = None,
    fit: Annotated[
        Fit | None,
        typer.Option(help="Plan for the largest batch, or the largest budget, that fits."),
    ] = None,
    text_tokens: Annotated[
        int,
        typer.Option(min=1, max=512, metavar="N", help="Tokens of the longest prompt."),
    ] = 128,
    check: Annotated[
        bool,
        typer.Option(
            "--check", help="Exit with 2 where the plan does not fit, having shown it; else with 0."
        ),
    ] = False,
    json: given.Json = False,
    *,
    typed: given.Typed,
) -> None:
    """The command; its help is `HELP`."""
    from scalekv.cli.choices import Options, choose
    from scalekv.cli.console.stdout import say_json
    from scalekv.cli.plan.room import memory_given, planner_of
    from scalekv.configs.values import AUTO
    from scalekv.infinity_patch.asked.settled import settle
    from scalekv.kv.errors import UserError

    choices = choose(Options(("a plan",), {**typed, "batch_size": batch_size}))
    target = memory_given(gpu_memory, choices.device)
    settled = settle(choices.request, choices.preset, target.device, choices.dtype)
    planner = planner_of(
        settled, choices.placement.for_known_prompts(), choices.weights_dir, text_tokens
    )
    # What is typed is planned for, though a CPU would draw one after another.
    together = choices.request.batch_size
    batch = settled.together if batch_size is None or together == AUTO else int(together)
    asked: int | None = None
    if fit is not None:
        assert target.memory is not None, target
        found = (
            planner.largest_batch(target.memory)
            if fit is Fit.BATCH
            else planner.largest_budget(target.memory, batch)
        )
        if not found:
            raise UserError(
                "not even one picture fits"
                if fit is Fit.BATCH
                else "not even the smallest budget fits",
                where=f"--fit {fit}, {target.name}",
                rule="a plan without --fit shows what takes how much",
                fix="a lighter placement, such as --offload or --text-device cpu, or more memory",
            )
        batch, asked = (found, None) if fit is Fit.BATCH else (batch, found)
    footprint = planner.footprint(batch, asked)
    figures = _figures(planner, footprint, target, asked)
    if choices.sparsity is not None:
        figures["sparsity"] = choices.sparsity.to_dict()
    if json:
        say_json(figures)
    else:
        from rich.console import Console

        _show(figures, Console(highlight=False))
    if check and not figures["fits"]:
        _refuse(figures)


def _refuse(figures: dict[str, Any]) -> NoReturn:
    """Ends a check of a plan that does not fit, or of which nobody can say."""
    from scalekv.kv.errors import UserError
    from scalekv.kv.sizes import human_bytes

    name, memory = figures["device"]["name"], figures["device"]["memory_bytes"]
    if memory is None:
        raise UserError(
            f"nobody says how much memory {name} has",
            where="--check",
            fix="say it: --gpu-memory 80GB",
        )
    raise UserError(
        f"it does not fit: {human_bytes(figures['needed_bytes'])} of {human_bytes(memory)}",
        where=f"--check, {name}",
        rule="what is needed is at most the memory there is",
        fix="--fit batch or --fit budget in place of --check says what does",
    )


def _figures(
    planner: Planner, footprint: Footprint, target: Target, asked: int | None
) -> dict[str, Any]:
    """Everything as plain JSON values.

    Args:
        asked: tokens per layer that were found to fit, in place of the budget asked for.
    """
    from scalekv.infinity_patch.planning.planner import fullest
    from scalekv.kv.memory.denominators import LowerBound, uncompressed

    work, cache, policy = footprint.work, footprint.cache, planner.settled.policy
    shape, budget = work.shape, work.budget
    places = shape.layers * shape.sequences * shape.heads
    return {
        "format": FORMAT,
        "model": work.preset.name,
        "policy": policy if isinstance(policy, str) else policy.name,
        "budget": None
        if budget is None
        else {"label": budget.label, "mean": budget.mean, "origin": budget.origin},
        **_coded(work),
        "kv_dtype": work.dtype if work.kv_dtype == "auto" else work.kv_dtype,
        "pictures": work.pictures,
        "sequences": work.sequences,
        "text_tokens": work.text_tokens,
        "schedule": str(work.schedule),
        "history_tokens": work.schedule.history,
        "device": {"type": target.device, "name": target.name, "memory_bytes": target.memory},
        "dtype": work.dtype,
        "stages": footprint.stages,
        "totals": footprint.totals,
        "fullest": fullest(footprint),
        "peak_bytes": footprint.peak,
        "needed_bytes": footprint.needed,
        "fits": None if target.memory is None else footprint.needed <= target.memory,
        "cache": {
            "held_peak_bytes": cache.held_peak_bytes,
            "index_peak_bytes": cache.index_peak_bytes,
            "transient_peak_bytes": cache.transient_peak_bytes,
            "scale_bytes": list(cache.scale_bytes),
        },
        "full_caches": [
            full.to_dict(cache.held_peak_bytes) for full in uncompressed(work.schedule, shape)
        ],
        "budgets": _budgets(planner, footprint, target.memory, asked),
        "lower_bound": LowerBound.of(work.schedule, shape.head_dim).to_dict(
            cache.held_peak_bytes, places
        ),
    }


def _coded(work: Work) -> dict[str, Any]:
    """What there is to say of a coded cache: of this one, or that there could be one."""
    from scalekv.configs.budget_files import calibration_file
    from scalekv.kv.coded.plan import allocation_of, bytes_asked

    if work.budget is None:
        return {}
    if work.constants is None:
        known = calibration_file("coded.safetensors", work.preset.name) is not None
        return {"alternative": "coded" if known else None}
    allocation = allocation_of(work.constants, work.budget, work.shape, work.guided)
    coded = allocation.first < len(work.schedule)
    return {
        "coded": {
            "budget_bytes": bytes_asked(work.budget, work.shape),
            "first_coded_scale": allocation.first + 1 if coded else None,
            "constants_bytes": work.constants.nbytes,
            "constants_sha256": work.constants.sha256,
        }
    }


def _budgets(
    planner: Planner, footprint: Footprint, memory: int | None, asked: int | None
) -> list[dict[str, Any]]:
    """The same with other budgets: what each takes, and the largest batch that fits with it."""
    from scalekv.configs.budget_files import list_budgets
    from scalekv.kv.errors import UserError

    named = [
        spec.name for spec in list_budgets(footprint.work.preset.name) if spec.name != "default"
    ]
    own = footprint.work.budget.label if footprint.work.budget else ""
    rows = []
    for label in dict.fromkeys([*BUDGETS, *named, *([own] if own else [])]):
        plans: Planner = planner
        budget: str | int | None = asked
        if label != own:
            plans = planner.unbounded() if label == "full" else planner.bounded()
            budget = label
        try:
            one = plans.footprint(footprint.work.pictures, budget)
            batch = None if memory is None else plans.largest_batch(memory, budget)
        except UserError:  # of a row nobody asked for: too few tokens, or for another schedule
            continue
        rows.append(
            {
                "budget": label,
                "tokens": one.work.budget.mean if one.work.budget else one.work.schedule.history,
                "held_peak_bytes": one.cache.held_peak_bytes,
                "needed_bytes": one.needed,
                "fits": None if memory is None else one.needed <= memory,
                "largest_batch": batch,
                "asked": label == own or (label == "full" and not own),
            }
        )
    return sorted(rows, key=lambda row: -int(row["tokens"]))


def _show(figures: dict[str, Any], console: Console) -> None:
    from rich.text import Text

    from scalekv.kv.sizes import human_bytes

    device = figures["device"]
    budget = figures["budget"]
    coded = figures.get("coded")
    kept = "" if budget is None else f", budget {budget['label']} ({budget['mean']} tokens a layer)"
    if coded is not None:
        kept = f", budget {budget['label']} ({human_bytes(coded['budget_bytes'])}, every token)"
    count = figures["pictures"]
    together = "1 picture" if count == 1 else f"{count} pictures at once"
    lines = [
        f"{figures['model']}, {figures['dtype']} on {device['name']}",
        f"{together}, policy {figures['policy']}{kept}, cache {figures['kv_dtype']}, at most "
        f"{human_bytes(figures['cache']['held_peak_bytes'])} held at any moment",
    ]
    if coded is not None:
        constants = coded["constants_bytes"]
        full = figures["full_caches"][0]["bytes"]
        share = (figures["cache"]["held_peak_bytes"] + constants) / max(full, 1)
        lines.append(
            f"constants {human_bytes(constants)}, once for any batch; held and constants are "
            f"{share:.1%} of the full cache"
        )
    elif figures.get("alternative"):
        lines.append("--policy coded keeps every token in as many bytes: docs/coded.md")
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)
    console.print()
    _show_parts(figures, console)
    console.print()
    needed = f"needed: {human_bytes(figures['needed_bytes'])}"
    memory = device["memory_bytes"]
    if memory is not None:
        left = memory - figures["needed_bytes"]
        verdict = f"fits, {human_bytes(left)} left" if left >= 0 else "does not fit"
        needed += f" of {human_bytes(memory)}: {verdict}"
    console.print(Text(needed, style="bold"), soft_wrap=True)
    console.print(
        Text(
            "the fullest stage and what the process takes besides"
            + (", and 4 % that the allocator cannot use" if device["type"] == "cuda" else ""),
            style="dim",
        ),
        soft_wrap=True,
    )
    console.print()
    _show_budgets(figures, console)
    console.print()
    bound = figures["lower_bound"]
    console.print(
        f"held: {figures['full_caches'][0]['ratio']:.1%} of the full cache (history, same dtype); "
        f"{bound['held_bits_per_unit']:.3g} bits per bit of n² d = {bound['unit_bits']} "
        f"(n {bound['n']:.4g}, d {bound['d']}) in each head and layer",
        soft_wrap=True,
    )
    console.print(Text(bound["meaning"], style="dim"))
    if "sparsity" in figures:
        console.print(Text(figures["sparsity"]["meaning"], style="dim"))


def _show_parts(figures: dict[str, Any], console: Console) -> None:
    from scalekv.cli.report.figures import PARTS
    from scalekv.kv.sizes import human_bytes

    stages: dict[str, dict[str, int]] = figures["stages"]
    names = {**PARTS, "everything_else": "activations"}
    rows = [
        [label, *(human_bytes(parts[name]) if parts[name] else "" for parts in stages.values())]
        for name, label in names.items()
        if any(parts[name] for parts in stages.values())
    ]
    rows.append(["all", *(human_bytes(count) for count in figures["totals"].values())])
    _table(["", *stages], rows, console)


def _show_budgets(figures: dict[str, Any], console: Console) -> None:
    from scalekv.kv.sizes import human_bytes

    known = figures["fits"] is not None
    head = ["budget", "tokens", "cache held", "needed", *(["fits", "largest batch"] * known)]
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
    _table(head, rows, console)


def _batch(largest: int) -> str:
    from scalekv.infinity_patch.planning.planner import MOST_PICTURES

    return f"{largest} or more" if largest == MOST_PICTURES else str(largest or "none")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], console: Console) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for place, name in enumerate(head):
        table.add_column(name, justify="left" if place == 0 else "right", no_wrap=place == 0)
    for row in rows:
        table.add_row(*row)
    console.print(table)
