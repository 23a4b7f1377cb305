"""A line of words drawn with the fonts of this machine, each character by one that has it.

Knows fonts and characters; nothing of what the words are about.
"""

from __future__ import annotations

import subprocess
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont
    from PIL.ImageFont import ImageFont as BitmapFont

FONT = 12  # pixels
STRIKE = 109  # pixels, the one size that fonts of coloured emoji have
BASE = FONT  # pixels from the top of a line to where letters stand
WIDE_FONTS = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "Arial Unicode.ttf")
"""Fonts with many scripts that are tried before fontconfig is asked, as systems name them."""
NO_CHARACTER = "\U0010fffd"
"""No font has it: what is drawn for it is drawn for everything that is missing."""
SECONDS = 10  # for fontconfig to answer


@dataclass(frozen=True)
class Face:
    """A font, and the factor that brings what it draws to the size of a line."""

    font: FreeTypeFont | BitmapFont
    factor: float = 1.0

    def has(self, character: str) -> bool:
        """Whether it draws a character, and not the box that stands for a missing one."""
        drawn, missing = (self.font.getmask(c) for c in (character, NO_CHARACTER))
        return drawn.size != missing.size or bytes(drawn) != bytes(missing)

    def length(self, text: str) -> float:
        """Pixels across."""
        return self.factor * self.font.getlength(text)


def length(text: str) -> float:
    """Pixels across of a line."""
    return sum(face.length(part) for face, part in _parts(text))


def cut(text: str, room: float, tail: str = "") -> str:
    """A line that fits `room` pixels: the text with `tail` behind it, which is never cut."""
    text = " ".join(text.split())
    if tail and length("…" + tail) > room:
        tail = ""  # it would be written over its neighbours
    if len(text) <= 4 * room and length(text + tail) <= room:
        return text + tail
    low, high = 0, min(len(text), int(4 * room))
    while low < high:
        middle = (low + high + 1) // 2
        fits = length(text[:middle] + "…" + tail) <= room
        low, high = (middle, high) if fits else (low, middle - 1)
    return text[:low].rstrip() + "…" + tail


def draw(page: Image.Image, middle: int, top: int, text: str, fill: str = "black") -> None:
    """Writes a line around `middle`."""
    x = middle - length(text) / 2
    for face, part in _parts(text):
        if face.factor == 1.0:
            ImageDraw.Draw(page).text((x, top + BASE), part, fill=fill, font=face.font, anchor="ls")
        else:
            _draw_strike(page, face, round(x), top, part)
        x += face.length(part)


def undrawn(texts: Iterable[str]) -> str:
    """The characters that no font of this machine has, each once."""
    seen = dict.fromkeys(character for text in texts for character in text)
    return "".join(c for c in seen if not c.isspace() and c.isprintable() and _face(c) is None)


def missing_fonts(texts: Iterable[str]) -> str:
    """A sentence about what `undrawn` finds; "" where it finds nothing."""
    characters = undrawn(texts)
    if not characters:
        return ""
    shown = characters[:20] + ("…" if len(characters) > 20 else "")
    return (
        f"no font of this machine has {shown}, drawn as boxes: install one that does, such as "
        "Noto Sans CJK or Noto Color Emoji"
    )


def _draw_strike(page: Image.Image, face: Face, x: int, top: int, text: str) -> None:
    size = (max(int(face.font.getlength(text)), 1), STRIKE + STRIKE // 4)
    large = Image.new("RGBA", size, (255, 255, 255, 0))
    options: dict[str, Any] = {"font": face.font, "embedded_color": True}
    ImageDraw.Draw(large).text((0, STRIKE), text, anchor="ls", **options)
    small = large.resize(
        (max(round(size[0] * face.factor), 1), round(size[1] * face.factor)),
        Image.Resampling.LANCZOS,
    )
    page.paste(small, (x, top), small)


def _parts(text: str) -> Iterator[tuple[Face, str]]:
    """Neighbouring characters of one font together."""
    plain = _plain()
    if text.isascii():
        yield plain, text
        return
    faces: list[Face] = []
    for character in text:
        goes_along = faces and unicodedata.category(character) in ("Mn", "Me", "Mc", "Cf", "Zs")
        faces.append(faces[-1] if goes_along else _face(character) or plain)
    start = 0
    for face, same in groupby(faces):
        end = start + len(list(same))
        yield face, text[start:end]
        start = end


@cache
def _face(character: str) -> Face | None:
    """The first font that has a character; None: no font of this machine has it."""
    plain = _plain()
    if character.isspace() or plain.has(character):
        return plain
    for name in (*WIDE_FONTS, *fonts_with(character)):
        face = _loaded(name)
        if face is not None and face.has(character):
            return face
    return None


@cache
def _plain() -> Face:
    """The font that comes with Pillow: always there and always the same."""
    return Face(ImageFont.load_default(FONT))


@cache
def _loaded(name: str) -> Face | None:
    for size in (FONT, STRIKE):
        try:
            return Face(ImageFont.truetype(name, size), FONT / size)
        except OSError:
            continue
    return None


def fonts_with(character: str) -> list[str]:
    """Files of fonts that have a character, as fontconfig knows them; [] where it is not there."""
    command = ["fc-list", f":charset={ord(character):x}", "file"]
    try:
        listed = subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=SECONDS
        )
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return []
    return sorted(line.rstrip(": ") for line in listed.stdout.splitlines())
