"""The command `scalekv plan`: its options, and the figures of a plan; `shown` shows them."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from scalekv.cli import options as given
from scalekv.configs.option import MACHINE

if TYPE_CHECKING:
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

  scalekv plan --cards

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
    cards: Annotated[
        bool,
        typer.Option(
            "--cards",
            help="Say instead which models fit on cards of 6 to 80 GB, and how much of the cache.",
            rich_help_panel=MACHINE,
        ),
    ] = False,
    bound: Annotated[
        bool,
        typer.Option("--bound", help="Say too what theory knows of how little a cache can hold."),
    ] = False,
    json: given.Json = False,
    *,
    typed: given.Typed,
) -> None:
    """The command; its help is `HELP`."""
    from scalekv.cli.choices import Options, choose
    from scalekv.cli.console.stdout import say_json
    from scalekv.cli.plan.cards import cards_figures, plans_of_models, show_cards
    from scalekv.cli.plan.room import memory_given, planner_of
    from scalekv.configs.values import AUTO
    from scalekv.infinity_patch.asked.settled import settle
    from scalekv.infinity_patch.planning.lighter import lightened
    from scalekv.kv.errors import UserError

    choices = choose(Options(("a plan",), {**typed, "batch_size": batch_size}))
    if cards:
        if gpu_memory is not None or fit is not None or check:
            raise UserError(
                "--cards plans for cards of its own",
                where="--cards, with --gpu-memory, --fit or --check",
                rule="these are about one device",
                fix="leave one of them out",
            )
        plans = plans_of_models(choices, text_tokens)
        if json:
            say_json(cards_figures(plans))
        else:
            show_cards(cards_figures(plans))
        return
    target = memory_given(gpu_memory, choices.device)
    settled = settle(choices.request, choices.preset, target.device, choices.dtype)
    planner = planner_of(
        settled, choices.placement.for_known_prompts(), choices.weights_dir, text_tokens
    )
    options = ""
    if target.memory is not None:
        planner, options = lightened(planner, target.memory, texts_known=True)
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
    figures = _figures(planner, footprint, target, asked, options)
    if choices.sparsity is not None:
        figures["sparsity"] = choices.sparsity.to_dict()
    if json:
        say_json(figures)
    else:
        from scalekv.cli.plan.shown import show_plan

        show_plan(figures, bound=bound)
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
    planner: Planner, footprint: Footprint, target: Target, asked: int | None, options: str
) -> dict[str, Any]:
    """Everything as plain JSON values.

    Args:
        asked: tokens per layer that were found to fit, in place of the budget asked for.
        options: taken without being asked for, so that it fits.
    """
    from scalekv.infinity_patch.planning.planner import fullest
    from scalekv.infinity_patch.schedules import size_of
    from scalekv.kv.memory.denominators import LowerBound, uncompressed

    work, cache, policy = footprint.work, footprint.cache, planner.settled.policy
    shape, budget = work.shape, work.budget
    request = planner.settled.request
    width, height = size_of(work.preset, request.ratio, request.pixels)
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
        "size": {"width": width, "height": height},
        "schedule": str(work.picture),
        "stop_after": request.stop_after,
        "history_tokens": work.picture.history,
        "device": {"type": target.device, "name": target.name, "memory_bytes": target.memory},
        "dtype": work.dtype,
        "weights_dtype": work.weights,
        "options": options,
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
            full.to_dict(cache.held_peak_bytes) for full in uncompressed(work.picture, shape)
        ],
        "budgets": _budgets(planner, footprint, target.memory, asked),
        "lower_bound": LowerBound.of(work.picture, shape.head_dim).to_dict(
            cache.held_peak_bytes, places
        ),
    }


def _coded(work: Work) -> dict[str, Any]:
    """What there is to say of a coded cache: of this one, or that there could be one."""
    from scalekv.configs.budget_files import alternative_for
    from scalekv.infinity_patch.calibration.plan import measuring_bytes
    from scalekv.kv.coded.plan import allocation_of, bytes_asked

    if work.budget is None:
        return {}
    if work.constants is None:
        one = replace(work.shape, sequences=work.sequences // work.pictures)

        def takes(gradients: bool) -> dict[str, int]:
            device, host = measuring_bytes(work.schedule, one, work.text_tokens, gradients)
            return {"device_bytes": device, "host_bytes": host}

        return {
            "alternative": alternative_for(work.preset.name),
            "calibrating_coded": {**takes(False), "gradients": takes(True)},
        }
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
