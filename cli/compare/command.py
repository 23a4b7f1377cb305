"""The command `scalekv compare`: its options. `run` does the work."""

from __future__ import annotations

from typing import Annotated

import typer

from scalekv.cli import options as given
from scalekv.cli.options import DEFAULTS_NOTE
from scalekv.configs.option import OUTPUT

HELP = (
    "Draw the same seeds under several budgets and policies, side by side.\n\n"
    "One load of the model. The full cache is always the reference: PSNR and SSIM are against its "
    "picture. Paths of the sheet and of the figures go to stdout, the table to stderr."
)
EPILOG = (
    """
Examples:

  scalekv compare "a red apple" --budget 20%,10%,5%

  scalekv compare "an owl" "a fox" -n 4 --policy scalekv,snapkv,streaming-llm

  scalekv compare @prompts.txt --budget 20%,full --kv-dtype auto,int8,int4

  scalekv compare "a pizza" --budget 10% --budget mine.yaml --json | jq '.variants'

  scalekv compare "a fox" --policy scalekv,coded --agreement --json | jq '.variants[].bits'

"""
    + DEFAULTS_NOTE
)


@given.takes_options("compare")
def compare(
    prompts: Annotated[
        list[str], typer.Argument(metavar="PROMPT", help="What to draw.", show_default=False)
    ],
    budget: Annotated[
        list[str] | None,
        given.several_of(
            "budget", "BUDGET", "Budgets to compare, with commas between or given again."
        ),
    ] = None,
    policy: Annotated[
        list[str] | None,
        given.several_of("policy", "NAME", "Policies to compare, each under every budget."),
    ] = None,
    kv_dtype: Annotated[
        list[str] | None,
        given.several_kv_dtypes("policy and budget"),
    ] = None,
    side: Annotated[
        int,
        typer.Option(
            min=16,
            metavar="N",
            help="Pixels of a picture on the sheet, at most.",
            rich_help_panel=OUTPUT,
        ),
    ] = 256,
    across: Annotated[
        int,
        typer.Option(
            min=1,
            metavar="N",
            help="Prompts side by side on the sheet.",
            rich_help_panel=OUTPUT,
        ),
    ] = 1,
    agreement: Annotated[
        bool,
        typer.Option(
            "--agreement",
            help="Force the full cache's bits on every variant too, and say what share of each "
            "scale's it would have drawn from the same noise; takes about as long again.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    keep: Annotated[
        bool,
        typer.Option(
            "--keep",
            help="Keep every picture too, in a folder for each budget.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    json: given.Json = False,
    *,
    typed: given.Typed,
) -> None:
    """The command; its help is `HELP`."""
    from scalekv.cli.choices import Options
    from scalekv.cli.compare.run import Comparison, variants
    from scalekv.cli.console.errors import stderr
    from scalekv.cli.prompts.arguments import prompts_of

    # Each picture as it is alone, so that --from and generate repeat it.
    words = prompts_of(prompts, quiet=bool(typed.get("quiet")))
    options = Options(words, {**typed, "reproducible": True})
    Comparison(
        variants(options, policy or (), budget or (), kv_dtype or ()),
        stderr(),
        side=side,
        across=across,
        agreement=agreement,
        keep=keep,
        json=json,
    ).execute()
