"""The command `scalekv report`: a run's memory report again, from the files it left."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

HELP = (
    "Show the memory report of the run in RUN_DIR and write it as a page, report.html.\n\n"
    "Of a run that was killed it says what there is: its report is brought up to date with every "
    "picture, and where there is none, the files beside the pictures are read."
)
EPILOG = """
Examples:

  scalekv report out --open

  scalekv report out/report-2.json --full-from reference

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
    figures, folder = read_report(run_dir)
    if json:
        say_json(figures)
        return
    from scalekv.cli.report.page import render

    needs("matplotlib", "the report's page", "--json to go without")
    page = render(figures, folder, full_from or ())
    found = find_report(run_dir)
    path = (folder / "report.json" if found is None else found).with_suffix(".html")
    OutputFolder(folder).replace(path, page.encode())
    if not quiet:
        print_table(figures, stderr())
    print(path)
    if open_:
        typer.launch(path.resolve().as_uri())
