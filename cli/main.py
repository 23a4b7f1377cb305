"""The program `scalekv`: its commands, and the one place where failures turn into exit codes."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Annotated, Any

import typer
from rich.console import Console

from scalekv.cli import errors
from scalekv.cli.batch import EPILOG as BATCH_EPILOG
from scalekv.cli.batch import HELP as BATCH_HELP
from scalekv.cli.batch import batch
from scalekv.cli.bench import EPILOG as BENCH_EPILOG
from scalekv.cli.bench import HELP as BENCH_HELP
from scalekv.cli.bench import bench
from scalekv.cli.budgets import budgets
from scalekv.cli.calibrate import EPILOG as CALIBRATE_EPILOG
from scalekv.cli.calibrate import HELP as CALIBRATE_HELP
from scalekv.cli.calibrate import calibrate
from scalekv.cli.compare import EPILOG as COMPARE_EPILOG
from scalekv.cli.compare import HELP as COMPARE_HELP
from scalekv.cli.compare import compare
from scalekv.cli.config import EPILOG as CONFIG_EPILOG
from scalekv.cli.config import HELP as CONFIG_HELP
from scalekv.cli.config import config
from scalekv.cli.convert import EPILOG as CONVERT_EPILOG
from scalekv.cli.convert import HELP as CONVERT_HELP
from scalekv.cli.convert import convert
from scalekv.cli.doctor import EPILOG as DOCTOR_EPILOG
from scalekv.cli.doctor import HELP as DOCTOR_HELP
from scalekv.cli.doctor import doctor
from scalekv.cli.download import EPILOG as DOWNLOAD_EPILOG
from scalekv.cli.download import HELP as DOWNLOAD_HELP
from scalekv.cli.download import download
from scalekv.cli.generate import EPILOG, HELP, generate
from scalekv.cli.grid import EPILOG as GRID_EPILOG
from scalekv.cli.grid import HELP as GRID_HELP
from scalekv.cli.grid import grid
from scalekv.cli.inspect import EPILOG as INSPECT_EPILOG
from scalekv.cli.inspect import HELP as INSPECT_HELP
from scalekv.cli.inspect import inspect
from scalekv.cli.models import models
from scalekv.cli.plan import EPILOG as PLAN_EPILOG
from scalekv.cli.plan import HELP as PLAN_HELP
from scalekv.cli.plan import plan
from scalekv.cli.report_command import EPILOG as REPORT_EPILOG
from scalekv.cli.report_command import HELP as REPORT_HELP
from scalekv.cli.report_command import report
from scalekv.kv.errors import UserError

_USAGE: Any = typer.BadParameter.__base__
"""What typer raises for options and arguments it does not know."""

PROGRAM_HELP = """Text-to-image generation with Infinity and a compressed key-value cache.

Exit codes: 0 done; 1 something broke; 2 refused, with the reason; 130 interrupted."""

app = typer.Typer(
    name="scalekv",
    help=PROGRAM_HELP,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"scalekv {version('scalekv')}")
        raise typer.Exit


@app.callback()
def _program(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    pass


app.command(help=HELP, epilog=EPILOG, no_args_is_help=True)(generate)
app.command(help=COMPARE_HELP, epilog=COMPARE_EPILOG, no_args_is_help=True)(compare)
app.command(help=GRID_HELP, epilog=GRID_EPILOG, no_args_is_help=True)(grid)
app.command(help=BATCH_HELP, epilog=BATCH_EPILOG, no_args_is_help=True)(batch)
app.command(help=INSPECT_HELP, epilog=INSPECT_EPILOG, no_args_is_help=True)(inspect)
app.command(help=DOWNLOAD_HELP, epilog=DOWNLOAD_EPILOG, no_args_is_help=True)(download)
app.command(help=CONVERT_HELP, epilog=CONVERT_EPILOG, no_args_is_help=True)(convert)
app.command(help=CALIBRATE_HELP, epilog=CALIBRATE_EPILOG)(calibrate)
app.command(help=PLAN_HELP, epilog=PLAN_EPILOG)(plan)
app.command(help=REPORT_HELP, epilog=REPORT_EPILOG, no_args_is_help=True)(report)
app.add_typer(models)
app.add_typer(budgets)
app.command(help=BENCH_HELP, epilog=BENCH_EPILOG)(bench)
app.command(help=CONFIG_HELP, epilog=CONFIG_EPILOG)(config)
app.command(help=DOCTOR_HELP, epilog=DOCTOR_EPILOG)(doctor)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and returns the exit code; the one place that shows failures.

    Args:
        arguments: without the program's name; None takes the process's.
    """
    code = _run(sys.argv[1:] if arguments is None else arguments)
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        from scalekv.cli.stdout import silence_stdout

        silence_stdout()
        return errors.PIPE_CLOSED
    return code


def _run(arguments: Sequence[str]) -> int:
    for_programs = errors.json_wanted(arguments)
    console = errors.stderr()
    try:
        # For programs typer hands its own refusals on instead of printing them.
        ended = app(args=list(arguments), prog_name="scalekv", standalone_mode=not for_programs)
        code = ended if isinstance(ended, int) else errors.OK
    except SystemExit as exit_:  # typer's own way to end, having said what it had to say
        code = exit_.code if isinstance(exit_.code, int) else errors.OK
    except errors.PipeClosed:
        return errors.PIPE_CLOSED
    except Exception as error:
        return _show(error, console, for_programs)
    if code == errors.INTERRUPTED:
        return _show(errors.Interrupted(), console, for_programs)
    return code


def _show(error: Exception, console: Console, for_programs: bool) -> int:
    """Tells a person or a program what went wrong; returns the exit code."""
    kind = errors.kind_of(error)
    match error:
        case UserError():
            if for_programs:
                details = {"where": error.where, "rule": error.rule, "fix": error.fix}
                errors.show_for_programs(kind, errors.REFUSED, error.what, **details)
            else:
                errors.show_refusal(error, console)
            return errors.REFUSED
        case _USAGE():
            errors.show_for_programs("usage", errors.REFUSED, error.format_message())
            return errors.REFUSED
        case errors.Interrupted() | errors.Unsuccessful():
            stopped = isinstance(error, errors.Interrupted)
            code = errors.INTERRUPTED if stopped else errors.FAILED
            if for_programs:
                errors.show_for_programs(kind, code, str(error))
            else:
                console.print(str(error), style="bold", markup=False, soft_wrap=True)
            return code
    if errors.debugging():
        errors.show_trace(error, console)
    if for_programs:
        errors.show_for_programs(kind, errors.FAILED, errors.one_line(error))
    else:
        errors.show_failure(error, console)
    return errors.FAILED
