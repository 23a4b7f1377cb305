"""The command `scalekv inspect`: what a picture says about how it was made."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from scalekv.cli import options as given

HELP = (
    "Print the settings that made IMAGE.png; they are stored in the picture.\n\n"
    "scalekv generate --from IMAGE.png makes it again from them."
)
EPILOG = """
Examples:

  scalekv inspect out/0-an-owl.png

  scalekv inspect out/0-an-owl.png --json | jq -r '.settings.seed'
"""
FIRST = ("prompt", "seed", "model", "policy", "budget", "ratio", "pixels")


def inspect(
    image: Annotated[
        Path, typer.Argument(metavar="IMAGE.png", help="A picture.", show_default=False)
    ],
    json: given.Json = False,
) -> None:
    """The command; its help is `HELP`."""
    from scalekv.cli.console.stdout import say, say_json
    from scalekv.cli.pictures.settings import read_picture
    from scalekv.kv.errors import UserError

    found = read_picture(image)
    if not found.settings:
        what = "is a contact sheet" if found.sheet else "says nothing about how it was made"
        raise UserError(
            f"{image} {what}", where="IMAGE.png", rule="a picture that scalekv made, as it made it"
        )
    settings = {key: value for key, value in found.settings.items() if key != "format"}
    size = {"width": found.image.width, "height": found.image.height}
    if json:
        say_json({"file": str(image), **size, "settings": settings})
        return
    lines = {"picture": f"{found.image.width}x{found.image.height} pixels"}
    order = [*FIRST, *(key for key in settings if key not in FIRST)]
    lines |= {key: _words(settings[key]) for key in order if key in settings}
    lines.pop("recorded", None)  # as it was asked for; what it came to is said by the others
    width = max(len(key) for key in lines)
    for key, words in lines.items():
        say(f"{key:{width}}  {words}\n")


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
