"""The command `scalekv calibrate`: its options. What is done about them is `calibration`'s."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scalekv.cli import options as given

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


def calibrate(
    prompts: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Text file with one prompt a line. [dim]\\[default: a list for the model][/dim]",
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
            help="Drafters per scale in the mean; N_d is this times those scales. "
            "[dim]\\[default: one layer in 16, rounded up][/dim]",
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
            help="Measure the constants of the policy coded too; draws the prompts twice.",
            rich_help_panel=CALIBRATION,
        ),
    ] = False,
    seed: given.Seed = None,
    ratio: given.Ratio = None,
    pixels: given.Pixels = None,
    truncate: given.Truncate = None,
    model: given.Model = None,
    weights_dir: given.WeightsDir = None,
    device: given.Device = None,
    dtype: given.Dtype = None,
    threads: given.Threads = None,
    offload: given.Offload = None,
    text_device: given.TextDevice = None,
    text_dtype: given.TextDtype = None,
    keep_text_encoder: given.KeepTextEncoder = None,
    out: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            help="The budget file, .yaml; the others take its name.",
            rich_help_panel=given.OUTPUT,
        ),
    ] = Path("budget.yaml"),
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Replace files that are there already.",
            rich_help_panel=given.OUTPUT,
        ),
    ] = False,
    no_plots: Annotated[
        bool,
        typer.Option(
            "--no-plots",
            help="No heat maps; without them matplotlib is not needed.",
            rich_help_panel=given.OUTPUT,
        ),
    ] = False,
    json: given.Json = False,
    quiet: given.Quiet = None,
    verbose: given.Verbose = False,
) -> None:
    """The command; its help is `HELP`."""
    from scalekv.cli.batch.file import prompts_alone
    from scalekv.cli.calibrate.run import CalibrationRun
    from scalekv.cli.choices import FULL, Options, choose
    from scalekv.cli.console.errors import stderr, turn_on_debugging
    from scalekv.configs.models import calibration_prompts, model_named
    from scalekv.configs.settings import Settings
    from scalekv.infinity_patch.calibration.plan import CalibrationRequest

    if verbose:
        turn_on_debugging()
    chosen = Settings().get("model", model)
    path = prompts or calibration_prompts(model_named(chosen.value, chosen.origin).name)
    options = Options(
        prompts=prompts_alone(path),
        policy=FULL,
        budget=FULL,
        model=model,
        seed=seed,
        num_images=1,
        ratio=ratio,
        pixels=pixels,
        truncate=truncate,
        dtype=dtype,
        threads=threads,
        device=device,
        weights_dir=weights_dir,
        offload=offload,
        text_device=text_device,
        text_dtype=text_dtype,
        keep_text_encoder=keep_text_encoder,
        quiet=quiet,
    )
    choices = choose(options)
    request = CalibrationRequest(choices.request, budget, drafters, top, index, both_halves, coded)
    CalibrationRun(
        choices, request, out.expanduser(), stderr(), force=force, plots=not no_plots, json=json
    ).execute()
