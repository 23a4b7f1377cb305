"""The command `scalekv calibrate`: its options. `run` does the work."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from scalekv.cli import options as given
from scalekv.cli.options import completes_words, default_note
from scalekv.configs.option import OUTPUT

CALIBRATION = "Calibration"

HELP = (
    "Find a model's drafters from its attention on prompts.\n\n"
    "Draws the prompts with the full cache, measures where attention goes, and writes a budget "
    "file with where it comes from. Beside it go a HeatKV order file, all numbers as JSON and heat "
    "maps; with --coded the constants of a coded cache. Their paths go to stdout, the budget's "
    "first; pictures are not kept."
)
EPILOG = """
Examples:

  scalekv calibrate --out emoji.yaml

  scalekv calibrate --model infinity-2b --prompts captions.txt --out 2b.yaml

  scalekv generate "an owl" --model infinity-2b --budget 2b.yaml

  scalekv calibrate --coded --out emoji.yaml

  scalekv generate "an owl" --policy coded:emoji-coded.safetensors --budget 5%

"""


def _indices() -> tuple[str, ...]:
    from scalekv.infinity_patch.calibration.plan import INDICES

    return INDICES


@given.takes_options("calibrate")
def calibrate(
    prompts: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Text file with one prompt a line." + default_note("a list for the model"),
            rich_help_panel=CALIBRATION,
        ),
    ] = None,
    budget: Annotated[
        str,
        typer.Option(
            metavar="BUDGET",
            help="10% of the history or 650 tokens per layer: drafters are found for the scales "
            "at which it drops tokens, and the file asks for it.",
            rich_help_panel=CALIBRATION,
        ),
    ] = "10%",
    drafters: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="Drafters per scale in the mean; N_d is this times those scales."
            + default_note("one layer in 16, rounded up"),
            rich_help_panel=CALIBRATION,
        ),
    ] = None,
    top: Annotated[
        int,
        typer.Option(
            min=1,
            metavar="N",
            help="K': how many of a query's largest weights on earlier scales count as focused.",
            rich_help_panel=CALIBRATION,
        ),
    ] = 16,
    index: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="paper: the published index. share: those weights as a share of the attention on "
            "earlier scales, see docs/calibration.md.",
            autocompletion=completes_words(_indices),
            rich_help_panel=CALIBRATION,
        ),
    ] = "paper",
    both_halves: Annotated[
        bool,
        typer.Option(
            "--both-halves",
            help="Measure the unconditional half of guidance too.",
            rich_help_panel=CALIBRATION,
        ),
    ] = False,
    coded: Annotated[
        bool,
        typer.Option(
            "--coded",
            help="Measure the constants of the policy coded too, which draws prompts twice.",
            rich_help_panel=CALIBRATION,
        ),
    ] = False,
    coded_prompts: Annotated[
        int | None,
        typer.Option(
            "--coded-prompts",
            min=1,
            metavar="N",
            help="With --coded: measure them on the first N prompts." + default_note("8"),
            rich_help_panel=CALIBRATION,
        ),
    ] = None,
    gradients: Annotated[
        bool,
        typer.Option(
            "--gradients",
            help="With --coded: weigh errors by gradients, not by attention: pictures come out "
            "about half a dB nearer, for more time and memory. docs/coded.md.",
            rich_help_panel=CALIBRATION,
        ),
    ] = False,
    out: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            help="The budget file, .yaml; the others take its name.",
            rich_help_panel=OUTPUT,
        ),
    ] = Path("budget.yaml"),
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="Replace files that are there already.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    no_plots: Annotated[
        bool,
        typer.Option(
            "--no-plots",
            help="No heat maps; without them matplotlib is not needed.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    json: given.Json = False,
    *,
    typed: given.Typed,
) -> None:
    """The command; its help is `HELP`."""
    from scalekv.cli.batch.file import prompts_alone
    from scalekv.cli.calibrate.run import CalibrationRun
    from scalekv.cli.choices import FULL, Options, choose
    from scalekv.cli.console.errors import stderr
    from scalekv.cli.prompts.wildcards import OFF
    from scalekv.configs.models import calibration_prompts, model_named
    from scalekv.configs.settings import Settings
    from scalekv.infinity_patch.calibration.plan import CalibrationRequest

    chosen = Settings().get("model", typed["model"])
    path = prompts or calibration_prompts(model_named(chosen.value, chosen.origin).name)
    own = {"policy": FULL, "budget": FULL, "wildcards": OFF}
    options = Options(prompts_alone(path), {**typed, **own})
    choices = choose(options)
    pictures = replace(
        choices.request, seed=choices.seeds.one("calibrate"), seeds=None, num_images=1
    )
    request = CalibrationRequest(
        pictures, budget, drafters, top, index, both_halves, coded, gradients, coded_prompts
    )
    CalibrationRun(
        choices,
        request,
        out.expanduser(),
        stderr(),
        overwrite=overwrite,
        plots=not no_plots,
        json=json,
    ).execute()
