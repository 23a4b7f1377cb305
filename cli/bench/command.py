"""The command `scalekv bench`: its options. `run` does the measuring."""

from __future__ import annotations

from typing import Annotated

import typer

from scalekv.cli import options as given
from scalekv.cli.options import DEFAULTS_NOTE
from scalekv.configs.option import OUTPUT

HELP = (
    "Measure the full cache against compressed ones on this machine.\n\n"
    "All in one process and one load, in turns, from the first scale to the decoded picture (the "
    "prompt is encoded once); the first rounds warm up and do not count. Medians, their ratio, "
    "pictures a second, peak memory."
)
EPILOG = (
    """
Examples:

  scalekv bench

  scalekv bench --model infinity-2b --device cuda --batch-size 1,2,4,8 --fail-on-busy

  scalekv bench --budget 20%,10% --kv-dtype auto,int8

  scalekv bench --budget 20% --rounds 9 --json --quiet >> bench.jsonl

"""
    + DEFAULTS_NOTE
)
MEASURE = "Measurement"


@given.takes_options("bench")
def bench(
    budget: Annotated[
        list[str] | None,
        given.several_of(
            "budget", "BUDGET", "Budgets to measure, with commas between or given again."
        ),
    ] = None,
    kv_dtype: Annotated[
        list[str] | None,
        given.several_kv_dtypes("budget"),
    ] = None,
    batch_size: Annotated[
        str,
        typer.Option(
            *given.BATCH_SIZE,
            metavar="N[,N...]",
            help="Pictures at once; several sizes are measured one after another.",
            rich_help_panel=MEASURE,
        ),
    ] = "1",
    rounds: Annotated[
        int,
        typer.Option(
            min=1,
            metavar="N",
            help="Rounds that count: each draws on both sides.",
            rich_help_panel=MEASURE,
        ),
    ] = 5,
    warmup: Annotated[
        int,
        typer.Option(
            min=0,
            metavar="N",
            help="Rounds before them that do not.",
            rich_help_panel=MEASURE,
        ),
    ] = 1,
    prompt: Annotated[
        str, typer.Option(metavar="TEXT", help="What to draw.", rich_help_panel=MEASURE)
    ] = "a red apple",
    fail_on_busy: Annotated[
        bool,
        typer.Option(
            "--fail-on-busy",
            help="Refuse where processors or the GPU are busy with other work, instead of saying "
            "so beside the figures.",
            rich_help_panel=MEASURE,
        ),
    ] = False,
    json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="One line of JSON on stdout, the table on stderr.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    *,
    typed: given.Typed,
) -> None:
    """The command; its help is `HELP`."""
    from scalekv.cli.bench.run import Benchmark, sizes
    from scalekv.cli.choices import Options
    from scalekv.cli.console.errors import stderr
    from scalekv.cli.prompts.wildcards import OFF

    Benchmark.of(
        Options((prompt,), {**typed, "wildcards": OFF}),
        stderr(),
        budgets=budget or (),
        kv_dtypes=kv_dtype or (),
        sizes=sizes(batch_size),
        rounds=rounds,
        warmup=warmup,
        fail_on_busy=fail_on_busy,
        json=json,
    ).execute()
