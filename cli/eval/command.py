"""The commands `scalekv eval ...`: their options. `run` does the work."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scalekv.cli import options as given
from scalekv.cli.console.commands import Command, CommandGroup
from scalekv.cli.options import DEFAULTS_NOTE
from scalekv.configs.option import OUTPUT, SAMPLING
from scalekv.configs.values import MOST_SEED

HELP = (
    "Measure what compressed caches take from pictures, as the papers do, and set it beside their "
    "tables.\n\n"
    "Every caption is drawn with the full cache and with each policy under each budget, from one "
    "seed. The table goes to stdout; --out keeps pictures, rows, result.json, report.md, table.tex "
    "and plot.png. What is in the folder is not drawn again: a run that was stopped goes on, and "
    "another policy is added to it."
)
EPILOG = (
    """
Examples:

  scalekv eval --protocol scalekv --captions captions.txt --limit 64

  scalekv eval --model infinity-2b --policy scalekv,snapkv,pyramidkv,streaming-llm,sliding-window

  scalekv eval --model infinity-8b --protocol heatkv --policy heatkv:order.json --shard 1/8

  scalekv eval --report-only --out eval --json | jq '.variants'

"""
    + DEFAULTS_NOTE
)
EXPORT_HELP = (
    "Draw a benchmark's prompts in the layout that its scorer reads: GenEval (4 pictures of each), "
    "DPG-Bench (sheets of 2 x 2), HPSv2.1 (four styles), ImageReward (10 of each).\n\n"
    "Picture j of prompt i has the seed --seed + i times the pictures of a prompt + j. What is in "
    "--out is not drawn again. The folders go to stdout; the scorers themselves are not part of "
    "scalekv."
)
EXPORT_EPILOG = (
    """
Examples:

  scalekv eval export geneval --model infinity-2b --policy full,scalekv --budget 10%

  scalekv eval export geneval --rewritten on --model infinity-2b --shard 1/8

  scalekv eval export dpg --prompts dpg_bench.csv --limit 8

"""
    + DEFAULTS_NOTE
)
IMPORT_HELP = (
    "Read what a benchmark's scorer wrote, and show it in the table of the evaluation in --out.\n\n"
    "GenEval: results.jsonl. DPG-Bench: the file of --res-path. HPSv2.1: what it prints, kept in a "
    "file. ImageReward: ImageReward-v1.0-benchmark-NAME-result.json."
)
IMPORT_EPILOG = """
Examples:

  scalekv eval import geneval results.jsonl --policy scalekv --budget 10%

  scalekv eval import hps results.txt --policy full
"""
WHAT = "What is measured"
DRAWN = "What is drawn"
MODELS_OWN = "the model's"
PROTOCOLS_DEFAULT = "the protocol's"

evaluations = typer.Typer(
    name="eval", help=HELP, epilog=EPILOG, invoke_without_command=True, cls=CommandGroup
)

KeptIn = Annotated[
    Path,
    typer.Option(
        "--out",
        "-o",
        metavar="DIR",
        help="Folder to keep it in and go on from.",
        rich_help_panel=OUTPUT,
    ),
]


def _benchmarks() -> list[str]:
    from scalekv.infinity_patch.benchmarks.layouts import BENCHMARKS

    return list(BENCHMARKS)


def _protocols() -> list[str]:
    from scalekv.infinity_patch.evaluation.protocols import PROTOCOLS

    return list(PROTOCOLS)


def _measures() -> tuple[str, ...]:
    from scalekv.cli.eval.asked import NETWORK_NAMES, NONE

    return (*NETWORK_NAMES, NONE)


@evaluations.callback()
@given.takes_options("eval")
def evaluate(
    context: typer.Context,
    protocol: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Whose measures: scalekv or heatkv (the papers'), or preset (the model's own "
            "sampling).",
            rich_help_panel=WHAT,
            autocompletion=given.completes_words(_protocols),
        ),
    ] = "scalekv",
    captions: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A caption a line, or COCO's captions as .json. [default: COCO 2017's validation "
            "set, from the hub]",
            show_default=False,
            rich_help_panel=WHAT,
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="How many of the captions." + given.default_note("5000, as in the papers"),
            show_default=False,
            rich_help_panel=WHAT,
        ),
    ] = None,
    measure: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[,...]",
            help="Which networks look at the pictures: lpips, fid, features, or none. PSNR, SSIM "
            "and bits are always measured." + given.default_note("those that are here"),
            show_default=False,
            rich_help_panel=WHAT,
            autocompletion=given.completes_words(_measures),
        ),
    ] = None,
    agreement: Annotated[
        bool,
        typer.Option(
            "--agreement",
            help="Force the full cache's bits on every variant too, and say what share of each "
            "scale's it would have drawn from the same noise; takes about as long again.",
            rich_help_panel=WHAT,
        ),
    ] = False,
    shard: Annotated[
        str | None, given.a_part(WHAT, " A call without it reports on all.")
    ] = None,
    report_only: Annotated[
        bool,
        typer.Option(
            "--report-only",
            help="Draw nothing and load nothing: report on what is in --out.",
            rich_help_panel=WHAT,
        ),
    ] = False,
    policy: Annotated[
        list[str] | None,
        given.several_of("policy", "NAME", "Policies, each under every budget.", PROTOCOLS_DEFAULT),
    ] = None,
    budget: Annotated[
        list[str] | None,
        given.several_of("budget", "BUDGET", "Budgets, each with every policy.", PROTOCOLS_DEFAULT),
    ] = None,
    kv_dtype: Annotated[
        list[str] | None,
        given.several_kv_dtypes("policy and budget", "auto"),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed",
            "-s",
            min=0,
            max=MOST_SEED,
            metavar="N",
            help="Seed of the first caption, each further one has the next."
            + given.default_note(PROTOCOLS_DEFAULT),
            show_default=False,
            rich_help_panel=SAMPLING,
        ),
    ] = None,
    cfg: Annotated[str | None, given.with_default("cfg", PROTOCOLS_DEFAULT)] = None,
    tau: Annotated[str | None, given.with_default("tau", PROTOCOLS_DEFAULT)] = None,
    top_p: Annotated[float | None, given.with_default("top_p", PROTOCOLS_DEFAULT)] = None,
    ratio: Annotated[str | None, given.with_default("ratio", PROTOCOLS_DEFAULT)] = None,
    pixels: Annotated[str | None, given.with_default("pixels", PROTOCOLS_DEFAULT)] = None,
    out: KeptIn = Path("eval"),
    json: given.Json = False,
    *,
    typed: given.Typed,
) -> None:  # fmt: skip
    """Measures, where no other command is named."""
    if context.invoked_subcommand is not None:
        return
    from scalekv.cli.console.errors import stderr
    from scalekv.cli.eval.asked import EvaluationAsked
    from scalekv.cli.eval.run import EvaluationRun

    sampling = {
        "seed": None if seed is None else str(seed),
        "cfg": cfg,
        "tau": tau,
        "top_p": top_p,
        "ratio": ratio,
        "pixels": pixels,
    }
    asked = EvaluationAsked(
        protocol=protocol,
        captions=captions,
        limit=limit,
        policies=policy or (),
        budgets=budget or (),
        kv_dtypes=kv_dtype or (),
        measures=measure or (),
        agreement=agreement,
        part=given.shard_of(shard),
        out=out,
        typed={**typed, **sampling},
    )
    run = EvaluationRun(asked, stderr(), json=json)
    if report_only:
        run.report_only()
    else:
        run.execute()


@evaluations.command("export", help=EXPORT_HELP, epilog=EXPORT_EPILOG, cls=Command)
@given.takes_options("eval")
def export(
    benchmark: Annotated[
        str,
        typer.Argument(
            metavar="BENCHMARK",
            help="geneval, dpg, hps or imagereward.",
            autocompletion=given.completes_words(_benchmarks),
        ),
    ],
    prompts: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="The list as it was published, a folder for hps. [default: fetched once, and kept "
            "in --out]",
            show_default=False,
            rich_help_panel=DRAWN,
        ),
    ] = None,
    rewritten: Annotated[
        str | None,
        typer.Option(
            metavar="on|FILE",
            help="GenEval's prompts as a language model wrote them anew: Infinity's, or a JSON "
            "object of yours from prompt to prompt.",
            show_default=False,
            rich_help_panel=DRAWN,
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="How many of the prompts." + given.default_note("all"),
            show_default=False,
            rich_help_panel=DRAWN,
        ),
    ] = None,
    shard: Annotated[str | None, given.a_part(DRAWN)] = None,
    policy: Annotated[
        list[str] | None,
        given.several_of("policy", "NAME", "Policies, each under every budget.", "full"),
    ] = None,
    budget: Annotated[
        list[str] | None,
        given.several_of("budget", "BUDGET", "Budgets, each with every policy.", "10%"),
    ] = None,
    kv_dtype: Annotated[
        list[str] | None,
        given.several_of("kv_dtype", "NAME", "How held tokens are stored.", "auto"),
    ] = None,
    seed: Annotated[str | None, given.with_default("seed", "0")] = None,
    cfg: Annotated[str | None, given.with_default("cfg", MODELS_OWN)] = None,
    tau: Annotated[str | None, given.with_default("tau", MODELS_OWN)] = None,
    top_p: Annotated[float | None, given.with_default("top_p", MODELS_OWN)] = None,
    ratio: Annotated[str | None, given.with_default("ratio", "1:1")] = None,
    pixels: Annotated[str | None, given.with_default("pixels", MODELS_OWN)] = None,
    out: KeptIn = Path("eval"),
    json: given.Json = False,
    *,
    typed: given.Typed,
) -> None:
    """Draws a benchmark's pictures."""
    from scalekv.cli.console.errors import stderr
    from scalekv.cli.eval.exporting import ExportAsked, ExportRun

    sampling = {
        "seed": seed, "cfg": cfg, "tau": tau, "top_p": top_p, "ratio": ratio, "pixels": pixels,
    }  # fmt: skip
    asked = ExportAsked(
        benchmark=benchmark,
        prompts=prompts,
        rewritten=rewritten,
        limit=limit,
        policies=policy or (),
        budgets=budget or (),
        kv_dtypes=kv_dtype or (),
        part=given.shard_of(shard),
        out=out,
        typed={**typed, **sampling},
    )
    ExportRun(asked, stderr(), json=json).execute()


@evaluations.command("import", help=IMPORT_HELP, epilog=IMPORT_EPILOG, cls=Command)
def import_scores(
    benchmark: Annotated[
        str,
        typer.Argument(
            metavar="BENCHMARK",
            help="geneval, dpg, hps or imagereward.",
            autocompletion=given.completes_words(_benchmarks),
        ),
    ],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What its scorer wrote.")],
    policy: Annotated[
        str, typer.Option(metavar="NAME", help="The policy that the pictures were drawn with.")
    ],
    budget: Annotated[
        str, typer.Option(metavar="BUDGET", help="Their budget; nothing to the full cache.")
    ] = "10%",
    kv_dtype: Annotated[
        str, typer.Option(metavar="NAME", help="How held tokens were stored.")
    ] = "auto",
    rewritten: Annotated[
        bool, typer.Option("--rewritten", help="They are of GenEval's rewritten prompts.")
    ] = False,
    out: KeptIn = Path("eval"),
    json: given.Json = False,
) -> None:
    """Reads a scorer's file."""
    from scalekv.cli.console.errors import stderr
    from scalekv.cli.eval.importing import ScoresImport

    ScoresImport(
        benchmark, file, policy, budget, kv_dtype, rewritten, out, stderr(), json
    ).execute()
