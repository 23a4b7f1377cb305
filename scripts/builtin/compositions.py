"""Pictures composed of drawings: one on a coloured background, or two side by side.

Knows drawings, their coverage and captions; nothing of models. Drawings that no training may see
are handed in by nobody, and combinations that heldout.yaml names are never drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from scripts.builtin.captions import (
    STYLE_DROPPED,
    STYLE_PHRASES,
    Row,
    article_before,
    chosen,
    load_combinations,
    with_article,
    words_for,
)
from scripts.builtin.dataset import SIZE, Pixels, load_rows

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 64, 60),
    "orange": (245, 150, 60),
    "yellow": (250, 214, 90),
    "green": (90, 175, 95),
    "blue": (75, 140, 215),
    "purple": (140, 95, 190),
    "pink": (245, 165, 195),
    "brown": (130, 90, 65),
    "black": (35, 35, 40),
    "grey": (160, 163, 168),
}
JITTER = 12  # of each channel, either way
ONE, PAIR = 112, 64  # of SIZE pixels, a drawing alone and each of two
PAIRS = 0.5  # share of pictures with two drawings
PAIR_COLOURED = 0.25
ALIAS_USED = 0.2
JOINED = (
    ("{a} and {b}", 0.5),
    ("{a} next to {b}", 0.2),
    ("{a} beside {b}", 0.08),
    ("{a} with {b}", 0.08),
    ("{a}, {b}", 0.07),
    ("both {a} and {b}", 0.07),
)
GROUNDS = (
    (" on {a} background", 0.65),
    (" on {colour}", 0.15),
    (", {colour} background", 0.1),
    (" with {colour} behind", 0.1),
)


@dataclass(frozen=True)
class Composed:
    """A picture (side, side, 3) and what to call it."""

    picture: Pixels
    caption: str


def background(colour: tuple[int, int, int], side: int = SIZE) -> Pixels:
    """A picture of nothing but one colour."""
    return np.broadcast_to(np.array(colour, np.uint8), (side, side, 3)).copy()


def paste(page: Pixels, drawing: Pixels, coverage: Pixels, side: int, left: int, top: int) -> None:
    """Put a drawing on white onto the page, `side` pixels wide, its own white staying white.

    A pixel on white is c f + (1 - c) 255; on another ground g it is that less (1 - c) (255 - g).
    """
    size = (side, side)
    small = np.asarray(Image.fromarray(drawing).resize(size, Image.Resampling.BOX), np.float32)
    cover = np.asarray(Image.fromarray(coverage).resize(size, Image.Resampling.BOX), np.float32)
    place = page[top : top + side, left : left + side]
    mixed = small - (1 - cover[..., None] / 255) * (255 - place.astype(np.float32))
    place[:] = np.clip(np.rint(mixed), 0, 255)


class Composer:
    """Composes pictures of the given rows of a built data set."""

    def __init__(self, data: Path, rows: Sequence[Row]):
        known = {row["id"]: i for i, row in enumerate(load_rows(data))}
        self.images = np.load(data / "images.npy", mmap_mode="r")
        self.coverage = np.load(data / "coverage.npy", mmap_mode="r")
        self.places = {row["id"]: known[row["id"]] for row in rows}
        by_style = {s: [row for row in rows if row["style"] == s] for s in STYLE_PHRASES}
        self.styles = {style: its for style, its in by_style.items() if its}
        self.side = self.images.shape[1]
        self.held_out = load_combinations()

    def put(self, page: Pixels, row: Row, side: int, left: int, top: int) -> None:
        """Put a row's drawing onto the page."""
        place = self.places[row["id"]]
        paste(page, self.images[place], self.coverage[place], side, left, top)

    def pair(self, left: Row, right: Row, colour: tuple[int, int, int]) -> Pixels:
        """Two drawings side by side."""
        page, side = background(colour, self.side), self.side * PAIR // SIZE
        top = (self.side - side) // 2
        self.put(page, left, side, 0, top)
        self.put(page, right, side, self.side - side, top)
        return page

    def alone(self, row: Row, colour: tuple[int, int, int]) -> Pixels:
        """One drawing on a colour."""
        page, side = background(colour, self.side), self.side * ONE // SIZE
        margin = (self.side - side) // 2
        self.put(page, row, side, margin, margin)
        return page

    def draw(self, rng: np.random.Generator) -> Composed:
        """One picture and its caption; the same generator state gives the same."""
        while True:
            chance = rng.random(8)
            style = list(self.styles)[int(chance[0] * len(self.styles))]
            rows = self.styles[style]
            first, second = (rows[int(rng.random() * len(rows))] for _ in range(2))
            colour = list(COLOURS)[int(chance[1] * len(COLOURS))]
            off = rng.integers(-JITTER, JITTER + 1, 3)
            r, g, b = np.clip(np.array(COLOURS[colour]) + off, 0, 255)
            named = (int(r), int(g), int(b))
            if chance[2] >= PAIRS:
                if (first["concept"], colour) in self.held_out.backgrounds:
                    continue
                picture, caption = self.alone(first, named), word(first, rng)
                coloured = True
            else:
                pair = frozenset((first["concept"], second["concept"]))
                if len(pair) < 2 or pair in self.held_out.pairs:
                    continue
                coloured = chance[3] < PAIR_COLOURED
                picture = self.pair(first, second, named if coloured else (255, 255, 255))
                form = chosen(JOINED, chance[4])
                caption = form.format(a=word(first, rng), b=word(second, rng))
            if coloured:
                caption += chosen(GROUNDS, chance[6]).format(
                    colour=colour, a=article_before(colour) + colour
                )
            if chance[5] >= STYLE_DROPPED[style]:
                caption += f", {STYLE_PHRASES[style]}"
            return Composed(picture, caption)


def word(row: Row, rng: np.random.Generator) -> str:
    """A name of the row's concept behind its article."""
    chance = rng.random(2)
    names = words_for(row["concept"])
    return with_article(
        names[1 + int(chance[1] * (len(names) - 1))]
        if len(names) > 1 and chance[0] < ALIAS_USED
        else names[0]
    )


def stacked(composed: Sequence[Composed]) -> npt.NDArray[np.uint8]:
    """Their pictures, (N, side, side, 3)."""
    return np.stack([each.picture for each in composed])
