"""The command `scalekv batch`: its options. `jobs` turns rows into pictures to make,
`run` makes them."""

from __future__ import annotations

from typing import Annotated

import typer

from scalekv.cli import options as given
from scalekv.cli.batch.file import FORMATS
from scalekv.cli.batch.rows import COLUMNS
from scalekv.cli.cluster.asked import ENGINES, LOCAL
from scalekv.cli.options import DEFAULTS_NOTE
from scalekv.kv.errors import UserError

FILE = "Prompts"
CLUSTER = "Cluster"
MOST_WORKERS = 4096

HELP = (
    "Draw the pictures of a FILE of prompts, and go on where it was interrupted.\n\n"
    "FILE is .txt (a prompt a line, # begins a comment), .csv or .tsv (the first line names the "
    "columns), .jsonl (an object a line) or .json (a list of them); - reads stdin. Rows may have "
    + ", ".join(COLUMNS[:-1])
    + f" and {COLUMNS[-1]}; other columns are kept as notes, and options hold where a row says "
    "nothing. Several values in a place, 5%|10%|full, are a picture each. The whole "
    "file is checked before the model is loaded. A picture without a seed of "
    "its own has --seed plus its index, so it stays the same whatever runs beside it."
)
EPILOG = (
    """
Examples:

  scalekv batch prompts.txt --out pictures

  scalekv batch prompts.txt --out pictures --resume

  scalekv batch prompts.csv -n 4 --seed 100 --budget 20% --shard 1/8

  scalekv batch prompts.csv --out pictures --resume --engine ray

  printf 'an owl\\na fox\\n' | scalekv batch - --name '{slug}-{seed}'

  scalekv batch rows.jsonl --wildcards lists --format webp --quality 80

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
    file_format: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Read FILE as txt, csv, tsv, jsonl or json, whatever its suffix.",
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
    shard: Annotated[str | None, given.a_part(FILE)] = None,
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
    engine: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="What draws: local (this process) or ray (workers, on this machine or many).",
            rich_help_panel=CLUSTER,
            autocompletion=given.completes_words(lambda: ENGINES),
        ),
    ] = LOCAL,
    address: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="The running cluster: auto, or its head. Left out, workers are started here, and "
            "end with the batch.",
            rich_help_panel=CLUSTER,
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=MOST_WORKERS,
            metavar="N",
            help="Workers, each with the model. Left out, one for every GPU, or without GPUs for "
            "every --threads cores, 1 unless said.",
            rich_help_panel=CLUSTER,
        ),
    ] = None,
    gpus_per_worker: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="GPUs of each worker, 1 unless said; 0.5 has two share one.",
            rich_help_panel=CLUSTER,
        ),
    ] = None,
    workers_write: Annotated[
        bool,
        typer.Option(
            "--workers-write",
            help="Workers write the pictures, into a folder that all nodes see; without it they "
            "are sent to this command.",
            rich_help_panel=CLUSTER,
        ),
    ] = False,
    json: given.Json = False,
    *,
    typed: given.Typed,
) -> None:
    """The command; its help is `HELP`."""
    from scalekv.cli.batch.file import FORMATS, STDIN, read_prompts
    from scalekv.cli.batch.jobs import jobs_of, selected
    from scalekv.cli.batch.run import BatchRun
    from scalekv.cli.choices import Options, choose
    from scalekv.cli.cluster.asked import check_workers_device, cluster_asked
    from scalekv.cli.console.errors import stderr
    from scalekv.cli.generate.destination import refuse_file, writing_of
    from scalekv.cli.pictures.names import BATCH_TEMPLATE, NameTemplate
    from scalekv.cli.plan.room import target_of
    from scalekv.cli.prompts.arguments import tell_of_terminal
    from scalekv.kv.extras import needs

    if typed["format"] in FORMATS:
        raise UserError(
            f"{typed['format']} is no format of pictures",
            where="--format",
            rule="--format says how pictures are written, --file-format how FILE is read",
            fix=f"--file-format {typed['format']}",
        )
    cluster = cluster_asked(
        engine,
        {
            "address": address,
            "workers": workers,
            "gpus": gpus_per_worker,
            "write": workers_write,
        },
    )
    if cluster is not None:
        needs("ray", "a batch with --engine ray")
    choices = choose(Options((), typed), threads=None if cluster is None else 1)
    if cluster is not None:
        check_workers_device(choices)
    refuse_file(choices.out, "a batch")
    if resume and choices.seeds.random:
        raise UserError(
            "other seeds would be other pictures, and nothing would be resumed",
            where="--resume and --seed random",
            rule="a batch goes on with the seeds it began with",
            fix="--seed N with the seed that the first run said; the manifest has it too",
        )
    template = NameTemplate(choices.name or BATCH_TEMPLATE, writing_of(choices).suffixes)
    part = given.shard_of(shard)
    if file == STDIN:
        tell_of_terminal(quiet=choices.quiet)
    target = target_of(choices.device)
    jobs = jobs_of(read_prompts(file, file_format), choices, template, target.device)
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
        cluster=cluster,
    )
    if dry_run:
        run.preview()
    else:
        run.execute()
