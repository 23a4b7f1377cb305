"""A contact sheet: pictures side by side with words below them. Knows pictures and words alone."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont
    from PIL.ImageFont import ImageFont as BitmapFont

SHEET = "scalekv-sheet"
"""Keyword of the PNG text chunk by which a contact sheet is told from a picture."""

GAP = 6  # pixels around a group of pictures
FONT = 12  # pixels
LINE = FONT + 4
WIDE_FONTS = (
    "NotoSansCJK-Regular.ttc",
    "Arial Unicode.ttf",
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
)
"""Fonts with many scripts, as systems name them."""


@dataclass(frozen=True)
class PictureGroup:
    """Pictures that belong together: what is said below all of them, and below each."""

    pictures: tuple[Image.Image, ...]
    caption: str
    remarks: tuple[str, ...] = ()


def contact_sheet(
    groups: Sequence[PictureGroup], *, across: int, side: int, labels: Sequence[str] = ()
) -> Image.Image:
    """Draws groups of equally many pictures in rows.

    Args:
        across: groups in a row.
        side: of a picture, in pixels at most; a smaller one keeps its size.
        labels: of a group's pictures, above the first row.
    """
    shown = [[_shrunk(picture, side) for picture in group.pictures] for group in groups]
    width = max(picture.width for row in shown for picture in row)
    height = max(picture.height for row in shown for picture in row)
    columns = max(len(row) for row in shown)
    remarks = LINE if any(group.remarks for group in groups) else 0
    header = LINE + 2 if any(labels) else 0
    across = min(across, len(groups))
    group_width = columns * width + 2 * GAP
    group_height = height + remarks + LINE + 2 * GAP
    rows = -(-len(groups) // across)
    page = Image.new("RGB", (across * group_width, rows * group_height + header), "white")
    pen = ImageDraw.Draw(page)
    for number, (group, pictures) in enumerate(zip(groups, shown, strict=True)):
        left = number % across * group_width + GAP
        top = number // across * group_height + header + GAP // 2
        for column, picture in enumerate(pictures):
            middle = left + column * width + width // 2
            if number < across and column < len(labels):
                _write(pen, middle, 3, labels[column], width)
            page.paste(picture, (middle - picture.width // 2, top + (height - picture.height) // 2))
            if column < len(group.remarks):
                _write(pen, middle, top + height + 2, group.remarks[column], width, "dimgray")
        middle = left + columns * width // 2
        _write(pen, middle, top + height + remarks + 2, group.caption, columns * width)
    return page


def sheet_bytes(page: Image.Image, facts: str) -> bytes:
    """A sheet as a PNG file that says it is one, with `facts` about it."""
    texts = PngInfo()
    texts.add_text(SHEET, facts)
    buffer = io.BytesIO()
    page.save(buffer, format="PNG", pnginfo=texts)
    return buffer.getvalue()


def _shrunk(picture: Image.Image, side: int) -> Image.Image:
    image = picture.convert("RGB")
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return image


def _write(
    pen: ImageDraw.ImageDraw, middle: int, top: int, text: str, room: int, fill: str = "black"
) -> None:
    """One line around `middle`, cut where there is no room for it."""
    text = " ".join(text.split())
    font = _font(text.isascii())
    if font.getlength(text) > room:
        while text and font.getlength(text + "…") > room:
            text = text[:-1]
        text = text.rstrip() + "…"
    pen.text((middle, top), text, fill=fill, font=font, anchor="mt")


@cache
def _font(plain: bool) -> FreeTypeFont | BitmapFont:
    """The font that comes with Pillow, always there and always the same; for text beyond ASCII,
    which it lacks, the widest of this machine's."""
    for name in () if plain else WIDE_FONTS:
        try:
            return ImageFont.truetype(name, FONT)
        except OSError:
            continue
    return ImageFont.load_default(FONT)
