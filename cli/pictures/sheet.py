"""A contact sheet: pictures side by side with words below them. Knows pictures and words alone."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from scalekv.cli.pictures.words import FONT, cut, draw

SHEET = "scalekv-sheet"
"""Keyword of the PNG text chunk by which a contact sheet is told from a picture."""

GAP = 6  # pixels around a group of pictures
LINE = FONT + 4


@dataclass(frozen=True)
class PictureGroup:
    """Pictures that belong together: what is said below all of them, and below each.

    tells: what may be added to a caption that reads like another's, the first that helps.
    """

    pictures: tuple[Image.Image, ...]
    caption: str
    remarks: tuple[str, ...] = ()
    tells: tuple[str, ...] = ()


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
    captions = _captions(groups, columns * width)
    for number, (group, pictures) in enumerate(zip(groups, shown, strict=True)):
        left = number % across * group_width + GAP
        top = number // across * group_height + header + GAP // 2
        for column, picture in enumerate(pictures):
            middle = left + column * width + width // 2
            if number < across and column < len(labels):
                draw(page, middle, 3, cut(labels[column], width))
            page.paste(picture, (middle - picture.width // 2, top + (height - picture.height) // 2))
            if column < len(group.remarks):
                remark = cut(group.remarks[column], width)
                draw(page, middle, top + height + 2, remark, "dimgray")
        middle = left + columns * width // 2
        draw(page, middle, top + height + remarks + 2, captions[number])
    return page


def _captions(groups: Sequence[PictureGroup], room: int) -> list[str]:
    """What is written below each group, told apart where two would read alike."""
    captions = [cut(group.caption, room) for group in groups]
    for number in range(max((len(group.tells) for group in groups), default=0)):
        often = Counter(captions)
        captions = [
            cut(group.caption, room, f" · {group.tells[number]}")
            if often[words] > 1 and number < len(group.tells)
            else words
            for words, group in zip(captions, groups, strict=True)
        ]
    return captions


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
