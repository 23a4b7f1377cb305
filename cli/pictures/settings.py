"""What a picture's file says about itself: the settings that made it. Knows where they are; nothing
of what they mean."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from scalekv.cli.pictures.sheet import SHEET
from scalekv.cli.pictures.writing import CHUNK, FORMAT, embedded_texts
from scalekv.kv.errors import UserError


@dataclass(frozen=True)
class Embedded:
    """A picture read from a file.

    settings: what made it, {} where the file does not say; sheet: it is a contact sheet.
    """

    image: Image.Image
    settings: dict[str, Any]
    sheet: bool


def read_picture(path: Path) -> Embedded:
    """Reads a picture with what is embedded in it.

    Raises:
        UserError: not a whole picture, or embedded settings that cannot be read.
    """
    try:
        with Image.open(path) as image:
            image.load()
    except (OSError, UnidentifiedImageError, ValueError, Image.DecompressionBombError) as error:
        strange = isinstance(error, UnidentifiedImageError)
        reason = "it is no picture" if strange else getattr(error, "strerror", None) or str(error)
        raise UserError(
            f"cannot read {path}: {reason}", where=str(path), rule="a whole picture file"
        ) from None
    texts = embedded_texts(image)
    if CHUNK not in texts:
        return Embedded(image, {}, SHEET in texts)
    try:
        settings = json.loads(texts[CHUNK])
    except (ValueError, RecursionError):
        settings = None
    if not isinstance(settings, dict):
        raise UserError(
            f"what is embedded in {path} cannot be read",
            where=f"{path}, chunk {CHUNK}",
            rule="the settings as one JSON object",
        )
    if settings.get("format") != FORMAT:
        raise UserError(
            f"{path} was written in format {settings.get('format')}, this is format {FORMAT}",
            where=f"{path}, chunk {CHUNK}",
            fix="use the version of scalekv that wrote it",
        )
    return Embedded(image, settings, False)
