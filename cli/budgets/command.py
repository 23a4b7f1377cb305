"""The commands `scalekv budgets ...`: which budgets there are, what one comes to, a new one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scalekv.cli import options as given
from scalekv.cli.console.commands import Command, CommandGroup

if TYPE_CHECKING:
    from scalekv.configs.models import ModelPreset
    from scalekv.kv.budgets.asked import BudgetSpec
    from scalekv.kv.budgets.budget import Budget, Drafters
    from scalekv.kv.schedule import Schedule

HELP = (
    "List the budgets that ship, show what one comes to, or write a new one.\n\n"
    "Without a command it lists. A percentage is always of the history: all scales but the last."
)
EPILOG = """
Examples:

  scalekv budgets

  scalekv budgets show 10%

  scalekv budgets show paper-10 --model infinity-2b

  scalekv budgets new mine.yaml --percent 12.5 --drafters 0,1
"""
SHOW_HELP = (
    "Show what BUDGET comes to: how much each layer may hold at each scale.\n\n"
    "BUDGET is what --budget takes: 10%, 650, a name, a .yaml file or full. Blocks are shares of "
    "the tokens there are: a full block keeps all."
)
NEW_HELP = (
    "Write a budget to FILE.yaml, from drafter layers and an amount.\n\n"
    "Drafters get more, the others give it up; capacities follow by the rule of the released "
    "budgets for any size of picture. FILE must not exist yet; --budget FILE uses it."
)

BF16_BYTES = 2

budgets = typer.Typer(
    name="budgets",
    help=HELP,
    epilog=EPILOG,
    invoke_without_command=True,
    cls=CommandGroup,
)


@budgets.callback()
def list_command(
    context: typer.Context, model: given.Model = None, json: given.Json = False
) -> None:
    """Lists all budgets, or those of a model."""
    if context.invoked_subcommand is not None:
        return
    from scalekv.cli.console.stdout import say, say_json
    from scalekv.configs.budget_files import list_budgets
    from scalekv.configs.models import model_named

    specs = list_budgets(model_named(model).name if model else None)
    facts = [_facts(spec) for spec in specs]
    if json:
        say_json({"budgets": facts})
        return
    for fact in facts:
        say(f"{fact['model'] + '/' + fact['name']:24}  {fact['amount']:>22}  {fact['drafters']}\n")
    say("\nBesides these, --budget takes a percentage, tokens per layer, a .yaml file, or full.\n")


@budgets.command("show", cls=Command, help=SHOW_HELP)
def show(
    budget: Annotated[
        str,
        typer.Argument(
            metavar="BUDGET",
            help="What --budget takes.",
            show_default=False,
            autocompletion=given.completes("budget"),
        ),
    ],
    ratio: given.Ratio = None,
    pixels: given.Pixels = None,
    model: given.Model = None,
    json: given.Json = False,
) -> None:
    """A budget as figures and as a picture."""
    from scalekv.cli.console.stdout import say, say_json
    from scalekv.kv.sizes import human_bytes

    preset, resolved = _resolved(budget, model, ratio, pixels)
    held = _peak_bytes(preset, resolved)
    schedule = resolved.schedule
    if json:
        facts = {
            "label": resolved.label,
            "model": preset.name,
            "mean": resolved.mean,
            "history_tokens": schedule.history,
            "total_tokens": schedule.total,
            "schedule": str(schedule),
            "window": resolved.window,
            "drafters": resolved.drafters,
            "capacities": resolved.capacities,
            "evicts": resolved.evicts,
            "held_peak_bytes": held,
            "origin": resolved.origin,
        }
        say_json(facts)
        return
    share = f"{resolved.mean / schedule.history:.1%} of the history" if schedule.history else ""
    mean = f"{resolved.mean} tokens per layer and head in the mean, {share}"
    if not resolved.evicts:
        mean = f"all {schedule.history} tokens of the history fit: nothing is dropped"
    say(f"{resolved.label} for {preset.name}, pictures of {_side(schedule)} tokens\n")
    say(f"  amount     {mean}\n")
    say(f"  held       {human_bytes(held)} at most, for one picture with guidance in bf16\n")
    say(f"  window     {resolved.window} tokens of the newest map observe, and are kept\n")
    say(f"  drafters   {_drafters_text(resolved.drafters, resolved.layers)}\n")
    say(f"  from       {resolved.origin}\n\n")
    _print_heat(resolved)


@budgets.command("new", cls=Command, help=NEW_HELP, epilog=EPILOG)
def new(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="A name ending in .yaml.", show_default=False)
    ],
    percent: Annotated[
        float | None,
        typer.Option(metavar="X", help="How much: percent of the history.", show_default=False),
    ] = None,
    mean: Annotated[
        int | None,
        typer.Option(metavar="N", help="How much: tokens per layer.", show_default=False),
    ] = None,
    drafters: Annotated[
        str | None,
        typer.Option(
            metavar="LAYERS",
            help="Layers that get more: 0,23, or by scale from 1 on: 1:0,23;13:0, or none for a "
            "uniform budget." + given.default_note("the model's"),
        ),
    ] = None,
    window: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Tokens of the newest map that observe." + given.default_note("16"),
            show_default=False,
        ),
    ] = None,
    note: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Where it comes from; kept in the file."),
    ] = None,
    model: given.Model = None,
) -> None:
    """Writes the file, having tried it."""
    from scalekv.cli.console.stdout import say
    from scalekv.cli.pictures.folder import OutputFolder
    from scalekv.configs.budget_files import budget_text
    from scalekv.configs.models import model_named
    from scalekv.configs.settings import Settings
    from scalekv.infinity_patch.schedules import schedule_for
    from scalekv.kv.budgets.asked import BudgetSpec, parse_budget, resolve
    from scalekv.kv.budgets.budget import WINDOW
    from scalekv.kv.errors import UserError

    path = Path(file).expanduser()
    if path.suffix not in (".yaml", ".yml"):
        raise UserError(
            f"{file} would not be read as a budget", where="FILE", rule="its name ends in .yaml"
        )
    if (percent is None) == (mean is None):
        raise UserError(
            "one of --percent and --mean says how much, "
            + ("neither is given" if percent is None else "both are given"),
            where="--percent and --mean",
            fix="--percent 10",
        )
    setting = Settings().get("model", model)
    preset = model_named(setting.value, setting.origin)
    layers, origin = _drafters(drafters, preset)
    spec = BudgetSpec(
        name=path.stem,
        model=preset.name,
        layers=preset.transformer.depth,
        drafters=layers,
        mean=mean,
        percent=None if percent is None else parse_budget(f"{percent}%").percent,
        window=WINDOW if window is None else window,
        provenance=note or origin,
    )
    resolve(spec, schedule_for(preset.ratio, preset.pixels), spec.layers)
    folder = OutputFolder(path.parent)
    folder.prepare()
    say(f"{folder.create(path.name, budget_text(spec).encode())}\n")


def _resolved(
    budget: str, model: str | None, ratio: str | None, pixels: str | None
) -> tuple[ModelPreset, Budget]:
    """A budget as a picture of a model would get it, and the model."""
    from scalekv.configs.budget_files import load_budget
    from scalekv.configs.models import model_named
    from scalekv.configs.settings import Settings, Source
    from scalekv.infinity_patch.asked.request import Request
    from scalekv.infinity_patch.asked.settled import settle
    from scalekv.kv.budgets.asked import parse_budget, resolve

    settings = Settings()
    chosen = settings.get("model", model)
    name = parse_budget(budget).name
    spec = None
    if name is not None:
        # A name alone says which model it is for, unless somebody says another.
        typed = chosen.source is Source.OPTION
        spec = load_budget(name, model_named(chosen.value).name if typed else None)
        preset = model_named(chosen.value if typed else spec.model, f"budget {name}, key model")
    else:
        preset = model_named(chosen.value, chosen.origin)
    request = Request(
        ("",),
        budget=budget,
        ratio=settings.get("ratio", ratio).value,
        pixels=settings.get("pixels", pixels).value or None,
    )
    if spec is not None and spec.schedule is not None and ratio is None and pixels is None:
        return preset, resolve(spec, spec.schedule, preset.transformer.depth)
    return preset, settle(request, preset, "cuda", "bf16").asked


def _peak_bytes(preset: ModelPreset, budget: Budget) -> int:
    from scalekv.kv.memory.predicted import CacheShape, predicted

    spec = preset.transformer
    shape = CacheShape(spec.depth, 2, spec.heads, spec.head_dim, BF16_BYTES, BF16_BYTES)
    return predicted(budget.schedule, shape, budget).held_peak_bytes


def _print_heat(budget: Budget) -> None:
    from rich.console import Console

    from scalekv.cli.budgets.blocks import heat
    from scalekv.cli.console.stdout import show

    console = Console()
    show(*heat(budget, console.width, encoding=console.encoding))


def _facts(spec: BudgetSpec) -> dict[str, Any]:
    amount = f"{spec.mean} tokens per layer" if spec.mean else ""
    if spec.percent is not None:
        amount = f"{float(spec.percent):g}% of the history"
    return {
        "name": spec.name,
        "model": spec.model,
        "amount": amount,
        "drafters": _drafters_text(spec.drafters, spec.layers),
        "provenance": spec.provenance,
    }


def _drafters_text(drafters: Drafters, layers: int) -> str:
    """Drafters for people: "layers 0, 23; from scale 13 on layer 0"."""
    from scalekv.kv.budgets.drafters import drafters_by_scale
    from scalekv.kv.schedule import Schedule

    # As many scales as the longest schedule has; which maps they are does not matter here.
    scales = len(drafters) if drafters and not isinstance(drafters, Mapping) else 13
    if any(isinstance(layer, int) for layer in drafters):
        scales = 13
    parts: list[str] = []
    before: tuple[int, ...] = ()
    rows = drafters_by_scale(drafters, Schedule(((1, 1),) * scales), layers)
    for scale, row in enumerate(rows, start=1):
        if row != before:
            named = ("layer " if len(row) == 1 else "layers ") + ", ".join(map(str, row))
            since = f"from scale {scale} on " if parts or scale > 1 else ""
            parts.append(since + (named if row else "none"))
        before = row
    return "; ".join(parts) or "none: uniform"


def _drafters(text: str | None, preset: ModelPreset) -> tuple[Drafters, str]:
    """Drafters as they were asked for, and where they come from."""
    from scalekv.configs.budget_files import default_budget
    from scalekv.kv.errors import UserError

    if text is None:
        known = default_budget(preset.name)
        if known is None:
            return (), f"no drafters are known for {preset.name}: uniform"
        return known.drafters, f"drafters of {preset.name}: {known.provenance}"
    if text.strip() == "none":
        return (), "uniform, as asked for"
    try:
        if ":" not in text:
            return _numbers(text), "drafters as given"
        rows = (row.split(":") for row in text.split(";"))
        return {int(scale): _numbers(layers) for scale, layers in rows}, "drafters as given"
    except ValueError:
        raise UserError(
            f"cannot read the drafters {text!r}",
            where="--drafters",
            rule="layer numbers with commas between, by scale with semicolons, or none",
            fix="--drafters 0,23, or --drafters '1:0,23;13:0'",
        ) from None


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(",") if part.strip())


def _side(schedule: Schedule) -> str:
    height, width = schedule.scales[-1]
    return f"{width}x{height}"
