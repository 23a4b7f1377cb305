"""Formats of pictures by the suffixes of their files. Knows names alone."""

from __future__ import annotations

from pathlib import Path

from scalekv.configs.output_options import PICTURE_FORMATS

PNG = "png"
SUFFIXES = {name: f".{name}" for name in PICTURE_FORMATS}
FORMATS_BY_SUFFIX = {suffix: name for name, suffix in SUFFIXES.items()} | {".jpeg": "jpg"}
"""Every suffix that a picture of ours may have."""
NOT_WRITTEN = (".avif", ".bmp", ".gif", ".heic", ".jxl", ".tif", ".tiff")
"""Suffixes that others have for pictures."""


def format_of(path: Path) -> str | None:
    """The format that a file's name says; None: it is no picture's of ours."""
    return FORMATS_BY_SUFFIX.get(path.suffix.casefold())
