"""The command `scalekv generate`: its options. What they come to is settled in `choices`, what is
done about it in `run`."""

from __future__ import annotations

from typing import Annotated

import typer

from scalekv.kv.policy import policy_names

CACHE, SAMPLING, OUTPUT, MACHINE = "Cache", "Sampling", "Output", "Model and machine"

HELP = (
    "Draw pictures of PROMPT... with a compressed cache.\n\n"
    "Each quoted PROMPT is a picture of its own. Paths go to stdout, progress and the memory "
    "report to stderr; every picture has a JSON file with all its settings beside it."
)
# Paragraphs are single lines: the help's renderer keeps every line break it is given.
EPILOG = """
Examples:

  scalekv generate "a red apple"

  scalekv generate "an owl" "a fox" -n 4 --budget 20% --out pictures

  scalekv generate "an owl" --policy full --seed 7

  scalekv generate "a pizza" --cfg 1,2,3,3,3,3,3 --json | jq -r '.paths[]'

"""
DEFAULTS_NOTE = (
    "Defaults of --model, --policy, --budget, --out, --device, --dtype and --weights-dir can be "
    "set as SCALEKV_MODEL and so on, or in a config file (lines such as model: emoji; "
    "SCALEKV_CONFIG names another one). Options come first, then variables, then the file."
)


def generate(
    prompts: Annotated[
        list[str], typer.Argument(metavar="PROMPT", help="What to draw.", show_default=False)
    ],
    budget: Annotated[
        str | None,
        typer.Option(
            metavar="BUDGET",
            help="What the cache may hold: 10% of the history, 650 tokens per layer, a named "
            "budget, a .yaml file, or full. [dim]\\[default: 10%][/dim]",
            rich_help_panel=CACHE,
        ),
    ] = None,
    policy: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="What chooses the tokens to keep: " + ", ".join(policy_names()) + ". "
            "[dim]\\[default: scalekv][/dim]",
            rich_help_panel=CACHE,
        ),
    ] = None,
    seed: Annotated[
        int,
        typer.Option(
            min=0,
            metavar="N",
            help="Seed of the first picture; each further one has the next.",
            rich_help_panel=SAMPLING,
        ),
    ] = 0,
    num_images: Annotated[
        int,
        typer.Option(
            "--num-images",
            "-n",
            min=1,
            metavar="N",
            help="Pictures of each prompt.",
            rich_help_panel=SAMPLING,
        ),
    ] = 1,
    cfg: Annotated[
        str | None,
        typer.Option(
            metavar="X[,X...]",
            help="Guidance: how closely to follow the prompt; one number, or one per scale. "
            "[dim]\\[default: the model's][/dim]",
            rich_help_panel=SAMPLING,
        ),
    ] = None,
    tau: Annotated[
        str | None,
        typer.Option(
            metavar="X[,X...]",
            help="Temperature: lower is tidier, higher more varied; one number, or one per scale. "
            "[dim]\\[default: the model's][/dim]",
            rich_help_panel=SAMPLING,
        ),
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=1.0,
            metavar="X",
            help="Nucleus: unlikely bits outside this share are not drawn; 0 is off. "
            "[dim]\\[default: the model's][/dim]",
            rich_help_panel=SAMPLING,
        ),
    ] = None,
    negative: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="What to keep away from.", rich_help_panel=SAMPLING),
    ] = None,
    truncate: Annotated[
        bool,
        typer.Option(
            "--truncate",
            help="Cut prompts beyond 512 tokens instead of refusing them; says what was cut.",
            rich_help_panel=SAMPLING,
        ),
    ] = False,
    ratio: Annotated[
        str,
        typer.Option(metavar="W:H", help="Width to height.", rich_help_panel=SAMPLING),
    ] = "1:1",
    pixels: Annotated[
        str | None,
        typer.Option(
            metavar="CLASS",
            help="Size: 0.06M, 0.25M, 0.60M or 1M pixels at stride 16. "
            "[dim]\\[default: the model's][/dim]",
            rich_help_panel=SAMPLING,
        ),
    ] = None,
    reproducible: Annotated[
        bool,
        typer.Option(
            "--reproducible",
            help="The same bits for a seed alone and among others on a GPU too, at the price of "
            "speed; on a CPU it is always so.",
            rich_help_panel=SAMPLING,
        ),
    ] = False,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Which model. [dim]\\[env: SCALEKV_MODEL; default: emoji][/dim]",
            rich_help_panel=MACHINE,
        ),
    ] = None,
    weights_dir: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="Folder with the model's files instead of the usual place.",
            rich_help_panel=MACHINE,
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="auto, cpu, cuda, cuda:1 or mps. [dim]\\[default: auto][/dim]",
            rich_help_panel=MACHINE,
        ),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Precision: auto, fp32, bf16 or fp16. [dim]\\[default: auto][/dim]",
            rich_help_panel=MACHINE,
        ),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="Folder for pictures and report; nothing in it is overwritten. "
            "[dim]\\[default: out][/dim]",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="One JSON object on stdout at the end, instead of a path a line.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    quiet: Annotated[
        bool,
        typer.Option("--quiet", "-q", help="Nothing on stderr but errors.", rich_help_panel=OUTPUT),
    ] = False,
    verbose: Annotated[
        bool,
        typer.Option(
            "--verbose",
            help="Show where a failure happened. [dim]\\[env: SCALEKV_DEBUG][/dim]",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
) -> None:
    """The command; its help is `HELP`."""
    from scalekv.cli.choices import Options, choose
    from scalekv.cli.errors import stderr, turn_on_debugging
    from scalekv.cli.run import Run

    if verbose:
        turn_on_debugging()
    options = Options(
        prompts=tuple(prompts),
        budget=budget,
        policy=policy,
        model=model,
        seed=seed,
        num_images=num_images,
        out=out,
        cfg=cfg,
        tau=tau,
        top_p=top_p,
        ratio=ratio,
        pixels=pixels,
        negative=negative,
        truncate=truncate,
        dtype=dtype,
        device=device,
        weights_dir=weights_dir,
        reproducible=reproducible,
    )
    Run(choose(options), stderr(), json=json, quiet=quiet).execute()
