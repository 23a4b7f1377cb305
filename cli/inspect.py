"""The command `scalekv inspect`: what a picture says about how it was made."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from json import dumps
from pathlib import Path
from typing import Annotated, Any

import typer

from scalekv.cli import options as given
from scalekv.configs.option import OUTPUT

HELP = (
    "Print the settings that made pictures; they are stored in the pictures.\n\n"
    "scalekv generate --from IMAGE makes one again from them. PNG, JPEG and WebP alike."
)
EPILOG = """
Examples:

  scalekv inspect out/0-an-owl.png

  scalekv inspect out/0-an-owl.png --json | jq -r '.settings.seed'

  scalekv inspect out/*.webp --format json | jq -r '.[] | [.file, .settings.seed] | @tsv'
"""
FIRST = ("prompt", "seed", "model", "policy", "budget", "ratio", "pixels")


class Form(StrEnum):
    """How settings are printed."""

    TEXT = "text"
    JSON = "json"
    JSONL = "jsonl"


def inspect(
    images: Annotated[
        list[Path], typer.Argument(metavar="IMAGE", help="Pictures.", show_default=False)
    ],
    form: Annotated[
        Form,
        typer.Option(
            "--format",
            metavar="NAME",
            help="text, json (a list with an object for each) or jsonl (an object a line).",
            rich_help_panel=OUTPUT,
        ),
    ] = Form.TEXT,
    json: given.Json = False,
) -> None:
    """The command; its help is `HELP`."""
    from scalekv.cli.console.errors import Unsuccessful, stderr
    from scalekv.cli.console.stdout import say, say_json
    from scalekv.kv.errors import UserError

    found: list[dict[str, Any]] = []
    silent = 0
    for image in images:
        try:
            facts = _facts(image)
        except UserError as error:
            if len(images) == 1:
                raise
            silent += 1
            stderr().print(f"{error.what}", markup=False, soft_wrap=True, style="dim")
            facts = {"file": str(image), "error": error.what}
        else:
            if form is Form.TEXT and not json:
                say(("\n" * bool(found) + f"{image}\n") * (len(images) > 1) + _lines(facts))
        found.append(facts)
        if form is Form.JSONL and not json:
            say(dumps(facts) + "\n")
    if json:
        say_json(found[0] if len(images) == 1 else found)
    elif form is Form.JSON:
        say_json(found)
    if silent:
        raise Unsuccessful(f"{silent} of {len(images)} files say nothing", "problems")


def _facts(image: Path) -> dict[str, Any]:
    """What a picture says of itself.

    Raises:
        UserError: nothing.
    """
    from scalekv.cli.pictures.settings import read_picture
    from scalekv.kv.errors import UserError

    found = read_picture(image)
    if not found.settings:
        what = "is a contact sheet" if found.sheet else "says nothing about how it was made"
        raise UserError(
            f"{image} {what}",
            where="IMAGE",
            rule="a picture that scalekv made, as it made it, and not with --no-metadata",
        )
    settings = {key: value for key, value in found.settings.items() if key != "format"}
    size = {"width": found.image.width, "height": found.image.height}
    return {"file": str(image), **size, "settings": settings}


def _lines(facts: Mapping[str, Any]) -> str:
    """A picture's settings, one a line."""
    settings = facts["settings"]
    lines = {"picture": f"{facts['width']}x{facts['height']} pixels"}
    order = [*FIRST, *(key for key in settings if key not in FIRST)]
    lines |= {key: _words(settings[key]) for key in order if key in settings}
    lines.pop("recorded", None)  # as it was asked for; what it came to is said by the others
    width = max(len(key) for key in lines)
    return "".join(f"{key:{width}}  {words}\n" for key, words in lines.items())


def _words(value: Any) -> str:
    """A setting in one line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_words(entry)}" for key, entry in value.items()) or "-"
    if isinstance(value, list):
        same = len(value) > 1 and all(entry == value[0] for entry in value)
        words = [_words(entry) for entry in (value[:1] if same else value)]
        return ", ".join(words) + (f" at each of {len(value)} scales" if same else "")
    if isinstance(value, float):
        return f"{value:g}"
    if value is None or value == "":
        return "-"
    return "yes" if value is True else "no" if value is False else str(value)
