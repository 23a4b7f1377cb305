"""The command `scalekv report`: a run's memory report again, from the files it left."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scalekv.cli.options import default_note

HELP = (
    "Show the memory report of the run in RUN_DIR and write it as a page, report.html.\n\n"
    "Of a run that was killed it says what there is: its report is brought up to date with every "
    "picture, and where there is none, the files beside the pictures are read. Of a batch it says "
    "what there is of all its runs and shards together; name a report.json for one run alone."
)
EPILOG = """
Examples:

  scalekv report out --open

  scalekv report out/report-2.json --full-from reference

  scalekv report night --out night.html
"""


def report(
    run_dir: Annotated[
        Path,
        typer.Argument(
            metavar="RUN_DIR", help="Folder of the run, or its report.json.", show_default=False
        ),
    ],
    full_from: Annotated[
        list[Path] | None,
        typer.Option(
            "--full-from",
            metavar="DIR",
            help="Another folder with pictures drawn with --policy full, to show beside these.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FILE",
            help="Where to write the page, a name ending in .html."
            + default_note("beside the report"),
            show_default=False,
        ),
    ] = None,
    open_: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    json: Annotated[
        bool, typer.Option("--json", help="The figures as JSON on stdout, and no page.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No table on stderr.")] = False,
) -> None:
    """The command; its help is `HELP`."""
    from scalekv.cli.console.errors import stderr
    from scalekv.cli.console.stdout import say_json
    from scalekv.cli.pictures.folder import OutputFolder
    from scalekv.cli.report.figures import print_table
    from scalekv.cli.report.run_folder import find_report, read_report
    from scalekv.kv.errors import UserError
    from scalekv.kv.extras import needs

    for folder in full_from or ():
        if not folder.is_dir():
            raise UserError(
                f"there is no folder {folder}",
                where="--full-from",
                rule="a folder with pictures that scalekv drew",
            )
    if out is not None and out.suffix != ".html":
        raise UserError(
            f"{out} is no name of a page",
            where="--out",
            rule="a page is told by its suffix, .html",
            fix=f"--out {out / 'report.html' if out.is_dir() else out.with_suffix('.html')}",
        )
    figures, folder = read_report(run_dir)
    if json:
        say_json(figures)
        return
    from scalekv.cli.report.page import render

    needs("matplotlib", "the report's page", "--json to go without")
    found = find_report(run_dir)
    beside = (folder / "report.json" if found is None else found).with_suffix(".html")
    path = beside if out is None else out.expanduser()
    page = render(figures, folder, full_from or (), path.parent)
    into = OutputFolder(path.parent)
    into.prepare()
    into.replace(path, page.encode())
    if not quiet:
        print_table(figures, stderr())
    print(path)
    if open_:
        typer.launch(path.resolve().as_uri())
