"""The command `scalekv grid`: contact sheets of the pictures in a folder."""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from scalekv.cli import options as given
from scalekv.cli.pictures.formats import FORMATS_BY_SUFFIX, format_of
from scalekv.configs.option import OUTPUT

if TYPE_CHECKING:
    from scalekv.cli.pictures.settings import Embedded

    Picture: TypeAlias = tuple[Path, Embedded]

HELP = (
    "Draw contact sheets of the pictures in FOLDER.\n\n"
    "Any folder of pictures will do; those of scalekv bring their prompts and seeds. Paths of the "
    "sheets go to stdout; earlier sheets are not drawn again, and nothing is overwritten."
)
EPILOG = """
Examples:

  scalekv grid out

  scalekv grid night --across 10 --side 128 --label seed

  scalekv grid night --per-page 40 --out sheets --json
"""


class Label(StrEnum):
    """What is said below a picture."""

    PROMPT = "prompt"
    SEED = "seed"
    NAME = "name"
    NONE = "none"


def grid(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Where the pictures are.", show_default=False)
    ],
    across: Annotated[int, typer.Option(min=1, metavar="N", help="Pictures in a row.")] = 6,
    side: Annotated[
        int, typer.Option(min=16, metavar="N", help="Pixels of a picture, at most.")
    ] = 192,
    label: Annotated[
        Label,
        typer.Option(metavar="|".join(Label), help="What is said below a picture."),
    ] = Label.PROMPT,
    per_page: Annotated[
        int, typer.Option(min=1, max=1000, metavar="N", help="Pictures on a sheet.")
    ] = 60,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder for the sheets." + given.default_note("FOLDER"),
            show_default=False,
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    json: given.Json = False,
    quiet: given.Quiet = None,
) -> None:
    """The command; its help is `HELP`."""
    from scalekv.cli.console.errors import Interrupted, stderr
    from scalekv.cli.console.interrupts import interruptible
    from scalekv.cli.console.stdout import say, say_json
    from scalekv.cli.pictures.folder import OutputFolder
    from scalekv.cli.pictures.words import missing_fonts
    from scalekv.configs.settings import Settings
    from scalekv.kv.errors import UserError

    silent = Settings().get("quiet", quiet).read()
    files = _pictures(folder)
    to = OutputFolder(folder if out is None else out)
    to.prepare()
    sheets: list[str] = []
    drawn = 0
    skipped: list[str] = []
    captions: dict[str, None] = {}
    try:
        with interruptible():
            for page in _pages(files, per_page, skipped):
                sheet = _sheet(page, across, side, label)
                sheets.append(str(to.save_numbered("grid", ".png", sheet)))
                drawn += len(page)
                captions |= dict.fromkeys(_words(path, found, label) for path, found in page)
                if not json:
                    say(f"{sheets[-1]}\n")
    except KeyboardInterrupt:
        raise Interrupted from None
    finally:
        to.discard_if_empty()
    for name in [] if silent else skipped:
        stderr().print(f"not drawn: {name}", markup=False, soft_wrap=True, style="dim")
    if not silent and (note := missing_fonts(captions)):
        stderr().print(note, markup=False, soft_wrap=True, style="dim")
    if not drawn:
        raise UserError(
            f"there are no pictures in {folder}",
            where="FOLDER",
            rule="files ending in " + ", ".join(FORMATS_BY_SUFFIX),
            fix="name the folder that --out of an earlier run named",
        )
    if json:
        say_json({"sheets": sheets, "pictures": drawn, "skipped": skipped})


def _pictures(folder: Path) -> list[Path]:
    """Files that are named like pictures, 2-a before 10-b."""
    from scalekv.kv.errors import UserError

    try:
        names = [p for p in folder.iterdir() if format_of(p) is not None and p.is_file()]
    except OSError as error:
        raise UserError(
            f"cannot read the folder {folder}: {error.strerror}", where="FOLDER"
        ) from None
    return sorted(names, key=_natural)


def _natural(path: Path) -> list[tuple[int, str]]:
    parts = re.split(r"(\d+)", path.name)
    return [(int(part), "") if part.isdecimal() else (0, part) for part in parts]


def _pages(files: list[Path], size: int, skipped: list[str]) -> Iterator[list[Picture]]:
    """The pictures, a sheet's at a time; what cannot be read is added to `skipped`."""
    from scalekv.cli.pictures.settings import read_picture
    from scalekv.kv.errors import UserError

    page: list[Picture] = []
    for path in files:
        try:
            found = read_picture(path)
        except UserError as error:
            skipped.append(error.what)
            continue
        if found.sheet:
            continue
        page.append((path, found))
        if len(page) == size:
            yield page
            page = []
    if page:
        yield page


def _sheet(page: list[Picture], across: int, side: int, label: Label) -> bytes:
    from scalekv.cli.console.stdout import to_json
    from scalekv.cli.pictures.sheet import PictureGroup, contact_sheet, sheet_bytes
    from scalekv.cli.pictures.writing import FORMAT

    groups = [
        PictureGroup((found.image,), _words(path, found, label), tells=_tells(path, found, label))
        for path, found in page
    ]
    names = [path.name for path, _ in page]
    image = contact_sheet(groups, across=across, side=side)
    return sheet_bytes(image, to_json({"format": FORMAT, "pictures": names}))


def _words(path: Path, found: Embedded, label: Label) -> str:
    """What a picture is called; by its file's name where it does not say more."""
    if label is Label.NONE:
        return ""
    if label is Label.NAME or label.value not in found.settings:
        return path.stem
    value = str(found.settings[label.value])
    return f"seed {value}" if label is Label.SEED else value


def _tells(path: Path, found: Embedded, label: Label) -> tuple[str, ...]:
    """By what a picture is told from another of the same prompt."""
    if label is not Label.PROMPT or label.value not in found.settings:
        return ()
    return f"seed {found.settings.get('seed', '?')}", path.stem
