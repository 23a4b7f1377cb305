"""The command `scalekv generate`: its options. What they come to is settled in `choices`, what is
done about it in `run`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scalekv.cli import options as given
from scalekv.cli.options import DEFAULTS_NOTE

HELP = (
    "Draw pictures of PROMPT... with a compressed cache.\n\n"
    "Each quoted PROMPT is a picture of its own; - reads prompts from stdin and @FILE from a file, "
    "one a line. Paths go to stdout, progress and the memory "
    "report to stderr; every picture has a JSON file with all its settings beside it."
)
# Paragraphs are single lines: the help's renderer keeps every line break it is given.
EPILOG = (
    """
Examples:

  scalekv generate "a red apple"

  scalekv generate "an owl" "a fox" -n 4 --budget 20% --out pictures

  scalekv generate "an owl" --policy full --seed 7

  scalekv generate "an owl" "a fox" --seed 1,7,9 --format webp --name '{slug}-{seed}'

  scalekv generate "a {red|blue} car" -n 4 --wildcards on --seed random

  shuf -n 3 prompts.txt | scalekv generate - -o sketches

  scalekv generate "a red apple" -o apple.jpg --open

  scalekv generate --from out/7-an-owl.png --out again

  scalekv generate "a pizza" --cfg 1,2,3,3,3,3,3 --json | jq -r '.paths[]'

"""
    + DEFAULTS_NOTE
)


@given.takes_options("generate")
def generate(
    prompts: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PROMPT", help="What to draw; - or @FILE to read it.", show_default=False
        ),
    ] = None,
    repeat: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="IMAGE.png",
            help="Make this picture again, bit for bit, from the settings in it; or say why that "
            "cannot be.",
            show_default=False,
        ),
    ] = None,
    server: Annotated[
        str | None,
        typer.Option(
            "--server",
            metavar="URL",
            help="Let a running scalekv serve draw, http://127.0.0.1:8000 for instance; its key is "
            "read from SCALEKV_API_KEY.",
            show_default=False,
        ),
    ] = None,
    json: given.Json = False,
    *,
    typed: given.Typed,
) -> None:
    """The command; its help is `HELP`."""
    from scalekv.cli.choices import Options, choose
    from scalekv.cli.console.errors import stderr
    from scalekv.cli.generate.run import Run
    from scalekv.cli.prompts.arguments import prompts_of
    from scalekv.kv.errors import UserError

    if repeat is None:
        prompts = list(prompts_of(prompts or (), quiet=bool(typed.get("quiet"))))
    options = Options(tuple(prompts or ()), typed)
    if server is not None:
        from scalekv.cli.generate.remote import RemoteRun

        if repeat is not None:
            raise UserError(
                "a picture is made again here, not by a server",
                where="--from and --server",
                fix="leave one of them out",
            )
        RemoteRun.of(server, options, stderr(), json=json).execute()
    elif repeat is None:
        Run(choose(options), stderr(), json=json).execute()
    else:
        from scalekv.cli.generate.repeat import Repetition

        Repetition.of(repeat, options, stderr(), json=json).execute()
