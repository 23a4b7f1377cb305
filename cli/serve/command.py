"""The command `scalekv serve`: its options. `run` does the work."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scalekv.cli import options as given
from scalekv.cli.options import DEFAULTS_NOTE

HELP = (
    "Keep the model warm and draw for programs: OpenAI's images API, and a page to draw from.\n\n"
    "The address goes to stdout. SIGTERM and Ctrl-C finish what was taken and end with 0. Options "
    "of the pictures are what a request that leaves them out gets."
)
EPILOG = (
    """
Examples:

  scalekv serve

  scalekv serve --model infinity-2b --budget 10% --port 8080

  scalekv serve --host 0.0.0.0 --api-key-file key.txt

  scalekv generate --server http://127.0.0.1:8000 "a fox"

"""
    + DEFAULTS_NOTE
)
SERVER = "Server"


@given.takes_options("serve")
def serve(
    host: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS",
            help="Where to listen. Any but this machine's own needs --api-key-file.",
            rich_help_panel=SERVER,
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option(
            min=0,
            max=65535,
            metavar="N",
            help="0 takes a free one.",
            rich_help_panel=SERVER,
        ),
    ] = 8000,
    queue: Annotated[
        int,
        typer.Option(
            min=1,
            metavar="PICTURES",
            help="Pictures that may wait; a request beyond gets 429.",
            rich_help_panel=SERVER,
        ),
    ] = 64,
    api_key_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Requests must carry the key in this file.",
            show_default=False,
            rich_help_panel=SERVER,
        ),
    ] = None,
    without_key: Annotated[
        bool,
        typer.Option(
            "--without-key",
            help="Draw for whoever reaches --host.",
            rich_help_panel=SERVER,
        ),
    ] = False,
    *,
    typed: given.Typed,
) -> None:
    """The command; its help is `HELP`."""
    from scalekv.kv.extras import needs

    for package in ("fastapi", "uvicorn", "prometheus_client"):
        needs(package, "the server")
    from scalekv.cli.choices import Options, choose
    from scalekv.cli.console.errors import stderr
    from scalekv.cli.serve.run import Server

    Server(
        choose(Options(("a prompt",), {**typed, "keep_text_encoder": True})),
        stderr(),
        host=host,
        port=port,
        most_waiting=queue,
        key_file=api_key_file,
        without_key=without_key,
    ).execute()
