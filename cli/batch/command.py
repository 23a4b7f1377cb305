"""The command `scalekv batch`: its options. `jobs` turns rows into pictures to make,
`run` makes them."""

from __future__ import annotations

import re
import sys
from typing import Annotated

import typer

from scalekv.cli import options as given
from scalekv.cli.batch.file import COLUMNS, FORMATS
from scalekv.cli.batch.names import TEMPLATE
from scalekv.cli.options import DEFAULTS_NOTE
from scalekv.configs.option import OUTPUT
from scalekv.kv.errors import UserError

FILE = "Prompts"

HELP = (
    "Draw the pictures of a FILE of prompts, and go on where it was interrupted.\n\n"
    "FILE is .txt (a prompt a line, # begins a comment), .csv (the first line names the columns) "
    "or .jsonl (an object a line); - reads stdin. Rows may have "
    + ", ".join(COLUMNS[:-1])
    + f" and {COLUMNS[-1]}; options hold where a row says nothing. The whole "
    "file is checked before the model is loaded. A picture without a seed of "
    "its own has --seed plus its index, so it stays the same whatever runs beside it."
)
EPILOG = (
    """
Examples:

  scalekv batch prompts.txt --out pictures

  scalekv batch prompts.txt --out pictures --resume

  scalekv batch prompts.csv -n 4 --seed 100 --budget 20% --shard 1/8

  printf 'an owl\\na fox\\n' | scalekv batch - --name '{slug}-{seed}'

"""
    + "Exit codes: 0 all pictures are there; 1 some failed, they are listed and in a retry file; "
    "2 refused; 130 Ctrl-C; 143 SIGTERM.\n\n" + DEFAULTS_NOTE
)


@given.takes_options("batch")
def batch(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="Prompts, or - for stdin.", show_default=False)
    ],
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Make only the pictures that are not in the folder yet.",
            rich_help_panel=FILE,
        ),
    ] = False,
    format: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Read FILE as txt, csv or jsonl, whatever its suffix.",
            autocompletion=given.completes_words(lambda: FORMATS),
            rich_help_panel=FILE,
        ),
    ] = None,
    start: Annotated[
        int,
        typer.Option(
            min=0,
            metavar="N",
            help="Leave out the first N prompts.",
            show_default=False,
            rich_help_panel=FILE,
        ),
    ] = 0,
    limit: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Take N prompts at most.", rich_help_panel=FILE),
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/N",
            help="Make only part I of N, counted from 1: one for every GPU or array job. All may "
            "write to the same folder.",
            rich_help_panel=FILE,
        ),
    ] = None,
    fail_fast: Annotated[
        bool,
        typer.Option(
            "--fail-fast", help="Stop at the first picture that fails.", rich_help_panel=FILE
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Check the file and say what would be made; load nothing.",
            rich_help_panel=FILE,
        ),
    ] = False,
    name: Annotated[
        str,
        typer.Option(
            metavar="TEMPLATE",
            help="Names of the pictures, of {index}, {seed}, {slug}, {line} and {image}.",
            rich_help_panel=OUTPUT,
        ),
    ] = TEMPLATE,
    json: given.Json = False,
    *,
    typed: given.Typed,
) -> None:
    """The command; its help is `HELP`."""
    from scalekv.cli.batch.file import STDIN, read_prompts
    from scalekv.cli.batch.jobs import jobs_of, selected
    from scalekv.cli.batch.names import NameTemplate
    from scalekv.cli.batch.run import BatchRun
    from scalekv.cli.choices import Options, choose
    from scalekv.cli.console.errors import stderr
    from scalekv.cli.plan.room import target_of

    choices = choose(Options((), typed))
    template, part = NameTemplate(name), shard_of(shard)
    if file == STDIN and sys.stdin.isatty() and not choices.quiet:
        stderr().print("prompts, one a line; Ctrl-D ends them", style="dim")
    target = target_of(choices.device)
    jobs = jobs_of(read_prompts(file, format), choices, template, target.device)
    run = BatchRun(
        choices,
        selected(jobs, start, limit, part),
        "stdin" if file == STDIN else file,
        target,
        stderr(),
        json=json,
        resume=resume,
        fail_fast=fail_fast,
        shard=part,
        marks=frozenset(job.mark for job in jobs),
    )
    if dry_run:
        run.preview()
    else:
        run.execute()


def shard_of(text: str | None) -> tuple[int, int] | None:
    """(i, n) of "i/n".

    Raises:
        UserError: no such shard.
    """
    if text is None:
        return None
    parts = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text, re.ASCII)
    if parts is None or not 1 <= int(parts[1]) <= int(parts[2]):
        raise UserError(
            f"no shard {text!r}",
            where="--shard",
            rule="I/N, from 1/N to N/N",
            fix="--shard 1/8 for the first of eight",
        )
    return int(parts[1]), int(parts[2])
