"""The command `scalekv selftest`: its options. `run` does the work."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scalekv.cli import options as given
from scalekv.cli.options import DEFAULTS_NOTE

HELP = (
    "Test whether everything holds for a model on this machine, and write what was found.\n\n"
    "Files and their hashes; the weights' ranges; a picture through the VAE and back, and its "
    "likelihood; ten prompts with the full cache and compressed ones, with times, peaks against "
    "the plan and distances. selftest.json, selftest.html and selftest.png are for sending back: "
    "nothing in them says whose machine it was. With a problem the exit code is 1."
)
EPILOG = (
    """
Examples:

  scalekv selftest

  scalekv selftest --model infinity-2b --out selftest

  scalekv selftest --model infinity-2b --official ~/Infinity

  scalekv selftest --quick --json | jq '.findings[] | select(.level == "problem")'

"""
    + DEFAULTS_NOTE
)
TEST = "Test"


@given.takes_options("selftest")
def selftest(
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            help="Three prompts instead of ten, and files are opened without comparing hashes.",
            rich_help_panel=TEST,
        ),
    ] = False,
    official: Annotated[
        Path | None,
        typer.Option(
            "--official",
            metavar="DIR",
            help="A clone of the published code, to compare bits and logits with on the same "
            "prompts, in fp32 and as published; it runs in a process of its own.",
            show_default=False,
            rich_help_panel=TEST,
        ),
    ] = None,
    json: given.Json = False,
    *,
    typed: given.Typed,
) -> None:
    """The command; its help is `HELP`."""
    from scalekv.cli.batch.file import prompts_alone
    from scalekv.cli.choices import FULL, Options, choose
    from scalekv.cli.console.errors import stderr
    from scalekv.cli.selftest.run import QUICK, USUAL, SelfTest
    from scalekv.configs.models import calibration_prompts, model_named
    from scalekv.configs.settings import Settings

    chosen = Settings().get("model", typed["model"])
    path = calibration_prompts(model_named(chosen.value, chosen.origin).name)
    prompts = prompts_alone(path)[: QUICK if quick else USUAL]
    own = {"policy": FULL, "budget": FULL, "num_images": 1, "reproducible": True}
    choices = choose(Options(prompts, {**typed, **own}))
    choices.seeds.one("selftest")
    SelfTest(choices, stderr(), quick=quick, official=official, json=json).execute()
