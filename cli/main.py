"""The program `scalekv`: its commands, and the one place where failures turn into exit codes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import cache
from types import ModuleType
from typing import Annotated, Any

import typer
from rich.console import Console

from scalekv.cli import config, convert, doctor, download, grid, inspect, models
from scalekv.cli.batch import command as batch
from scalekv.cli.bench import command as bench
from scalekv.cli.budgets import command as budgets
from scalekv.cli.calibrate import command as calibrate
from scalekv.cli.compare import command as compare
from scalekv.cli.console import errors
from scalekv.cli.console.commands import Command, CommandGroup
from scalekv.cli.console.interrupts import forget_in_texts, received
from scalekv.cli.console.streams import usable_streams
from scalekv.cli.console.usage import USAGE, not_understood
from scalekv.cli.eval import command as evaluation
from scalekv.cli.generate import command as generate
from scalekv.cli.plan import command as plan
from scalekv.cli.report import command as report_command
from scalekv.cli.selftest import command as selftest
from scalekv.cli.serve import command as serve
from scalekv.kv.errors import UserError

NAME = "scalekv"
PROGRAM_HELP = """Text-to-image generation with Infinity and a compressed key-value cache.

Exit codes: 0 done; 1 something broke; 2 refused, with the reason; 130 Ctrl-C; 143 SIGTERM."""
PROGRAM_EPILOG = """
Examples:

  scalekv generate "a red apple"

  scalekv compare "an owl" --budget 20%,10%

  scalekv doctor --model infinity-2b

  scalekv download infinity-2b
"""
PICTURES, MODELS, MACHINE = "Pictures", "Models and budgets", "Measuring, and this machine"

app = typer.Typer(
    name=NAME,
    help=PROGRAM_HELP,
    epilog=PROGRAM_EPILOG,
    cls=CommandGroup,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

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


def _add(panel: str, command: Callable[..., None], home: ModuleType) -> None:
    """Adds a command of the module `home`."""
    app.command(cls=Command, help=home.HELP, epilog=home.EPILOG, rich_help_panel=panel)(command)


_add(PICTURES, generate.generate, generate)
_add(PICTURES, compare.compare, compare)
_add(PICTURES, grid.grid, grid)
_add(PICTURES, batch.batch, batch)
_add(PICTURES, inspect.inspect, inspect)
_add(PICTURES, serve.serve, serve)
_add(MODELS, download.download, download)
_add(MODELS, convert.convert, convert)
app.add_typer(models.models, rich_help_panel=MODELS)
app.add_typer(budgets.budgets, rich_help_panel=MODELS)
_add(MODELS, calibrate.calibrate, calibrate)
_add(MACHINE, bench.bench, bench)
app.add_typer(evaluation.evaluations, rich_help_panel=MACHINE)
_add(MACHINE, plan.plan, plan)
_add(MACHINE, report_command.report, report_command)
_add(MACHINE, doctor.doctor, doctor)
_add(MACHINE, selftest.selftest, selftest)
_add(MACHINE, config.config, config)


@cache
def _program_command() -> Any:
    """The commands as Click has them, made once: from signatures, which takes longer than most
    commands do."""
    return typer.main.get_command(app)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and returns the exit code; the one place that shows failures.

    Args:
        arguments: without the program's name; None takes the process's.
    """
    given = sys.argv[1:] if arguments is None else arguments
    with usable_streams() as lost:
        code = _run(given)
        sys.stdout.flush()
        if code == errors.OK and lost.matters:
            message = f"stdout could not be written: {lost.why}"
            unsaid = errors.Unsuccessful(message, "failed")
            return _show(unsaid, errors.stderr(), errors.json_wanted(given))
    return code


def _run(arguments: Sequence[str]) -> int:
    for_programs = errors.json_wanted(arguments)
    console = errors.stderr()
    try:
        # Click hands its refusals on: everything that is refused is said in one way.
        typed = list(arguments) or ["--help"]
        ended = _program_command()(args=typed, prog_name=NAME, standalone_mode=False)
        code = ended if isinstance(ended, int) else errors.OK
        if not arguments:  # nothing was asked for, which is no command
            code = errors.REFUSED
    except SystemExit as exit_:  # completion's way to end
        code = exit_.code if isinstance(exit_.code, int) else errors.OK
    except typer.Abort:  # Ctrl-C or Ctrl-D where a question was asked
        code = errors.INTERRUPTED
    except USAGE as error:
        return _show(not_understood(error, arguments), console, for_programs)
    except Exception as error:
        return _show(errors.as_refusal(error), console, for_programs)
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
        case errors.Interrupted() | errors.Unsuccessful():
            stopped = isinstance(error, errors.Interrupted)
            code = errors.SIGNALLED + received() if stopped else errors.FAILED
            forget_in_texts()
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
