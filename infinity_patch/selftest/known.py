"""What is known beforehand of any model: a picture with its caption, and the tokens of phrases.

The picture is drawn here, so that it needs no file and has no licence but the program's.
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageDraw

CAPTION = "a red apple"
"""Of the picture."""
OTHER_CAPTIONS = ("a blue book", "an octopus")
"""That it does not show."""

T5_VOCABULARY = 32128
T5_PHRASES = {
    "hello world": (21820, 296, 1),
    "The house is wonderful.": (37, 629, 19, 1627, 5, 1),
}
"""Tokens in the vocabulary that all of T5 and Flan-T5 share; the second phrase is that of the T5
page of the transformers documentation, the first that of its T5 tokenizer's."""

PHRASES = tuple(T5_PHRASES)

_FINER = 4  # drawn so many times larger, and then averaged
_RED, _LIGHT, _BROWN, _GREEN = (200, 25, 35), (235, 110, 105), (110, 70, 40), (90, 160, 60)


def known_picture(width: int, height: int) -> Image.Image:
    """A red apple on white, with a stem and a leaf, drawn at any size."""
    side = min(width, height) * _FINER
    left, top = (width * _FINER - side) // 2, (height * _FINER - side) // 2
    page = Image.new("RGB", (width * _FINER, height * _FINER), "white")
    draw = ImageDraw.Draw(page)

    def at(*shares: float) -> list[float]:
        return [share * side + (top if i % 2 else left) for i, share in enumerate(shares)]

    for box in (at(0.16, 0.26, 0.60, 0.90), at(0.40, 0.26, 0.84, 0.90), at(0.25, 0.33, 0.75, 0.92)):
        draw.ellipse(box, fill=_RED)
    draw.ellipse(at(0.26, 0.36, 0.38, 0.52), fill=_LIGHT)
    draw.line(at(0.50, 0.34, 0.53, 0.14), fill=_BROWN, width=max(round(0.035 * side), 1))
    draw.ellipse(at(0.54, 0.12, 0.76, 0.24), fill=_GREEN)
    return page.resize((width, height), Image.Resampling.LANCZOS)


def decibels(picture: Image.Image, reference: Image.Image) -> float:
    """PSNR over all pixels and colours, in dB; infinite where they are equal.

    Not torchmetrics', which is an extra: a machine that is tested may have nothing but the program.
    """
    mine, other = (np.asarray(one.convert("RGB"), np.float64) for one in (picture, reference))
    error = float(np.square(mine - other).mean())
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)
