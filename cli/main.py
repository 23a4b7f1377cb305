"""The program `scalekv`: its commands, and the one place where failures turn into exit codes."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Annotated

import typer

from scalekv.cli import errors
from scalekv.cli.download import EPILOG as DOWNLOAD_EPILOG
from scalekv.cli.download import HELP as DOWNLOAD_HELP
from scalekv.cli.download import download
from scalekv.cli.generate import DEFAULTS_NOTE, EPILOG, HELP, generate
from scalekv.cli.models import models
from scalekv.kv.errors import UserError

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


app.command(help=HELP, epilog=EPILOG + DEFAULTS_NOTE, no_args_is_help=True)(generate)
app.command(help=DOWNLOAD_HELP, epilog=DOWNLOAD_EPILOG, no_args_is_help=True)(download)
app.add_typer(models)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and returns the exit code; the one place that shows failures.

    Args:
        arguments: without the program's name; None takes the process's.
    """
    code = _run(arguments)
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        from scalekv.cli.run import silence_stdout

        silence_stdout()
        return errors.PIPE_CLOSED
    return code


def _run(arguments: Sequence[str] | None) -> int:
    try:
        app(args=None if arguments is None else list(arguments), prog_name="scalekv")
    except SystemExit as exit_:  # typer's own way to end, having said what it had to say
        if exit_.code == errors.INTERRUPTED:
            errors.stderr().print("interrupted", style="bold")
        return exit_.code if isinstance(exit_.code, int) else errors.OK
    except errors.PipeClosed:
        return errors.PIPE_CLOSED
    except errors.Interrupted as interruption:
        errors.stderr().print(str(interruption), style="bold", soft_wrap=True)
        return errors.INTERRUPTED
    except UserError as error:
        errors.show_refusal(error, errors.stderr())
        return errors.REFUSED
    except Exception as error:
        errors.show_failure(error, errors.stderr())
        return errors.FAILED
    return errors.OK
