"""The official scale schedules: which token maps a picture of a ratio and pixel class is made of.

Knows ratios and pixel classes; nothing of models. No torch. Source: the published inference code's
table of dynamic resolutions (arXiv 2412.04431).
"""

from __future__ import annotations

import math
import re
from fractions import Fraction

from scalekv.configs.models import ModelPreset
from scalekv.kv.errors import UserError, check_one_of
from scalekv.kv.schedule import Schedule

# Height over width to the maps of the 1M class; the transposed maps serve the inverse ratio.
TALL: dict[Fraction, Schedule] = {
    Fraction(ratio): Schedule.parse(text)
    for ratio, text in {
        "1": "1x1 2x2 4x4 6x6 8x8 12x12 16x16 20x20 24x24 32x32 40x40 48x48 64x64",
        "5/4": "1x1 2x2 3x3 5x4 10x8 15x12 20x16 25x20 30x24 35x28 45x36 55x44 70x56",
        "4/3": "1x1 2x2 4x3 8x6 12x9 16x12 20x15 24x18 28x21 36x27 48x36 60x45 72x54",
        "3/2": "1x1 2x2 3x2 6x4 9x6 15x10 21x14 27x18 33x22 39x26 48x32 63x42 78x52",
        "7/4": "1x1 2x2 3x3 7x4 11x6 14x8 21x12 28x16 35x20 42x24 56x32 70x40 84x48",
        "2": "1x1 2x2 4x2 6x3 10x5 16x8 22x11 30x15 38x19 46x23 60x30 74x37 90x45",
        "5/2": "1x1 2x2 5x2 10x4 15x6 20x8 25x10 30x12 40x16 50x20 65x26 80x32 100x40",
        "3": "1x1 2x2 6x2 9x3 15x5 21x7 27x9 36x12 45x15 54x18 72x24 90x30 111x37",
    }.items()
}
PIXEL_CLASSES = {"0.06M": 7, "0.25M": 10, "0.60M": 12, "1M": 13}
"""Scales of each pixel class."""


def ratios() -> list[str]:
    """All ratios as width:height, widest first."""
    wide = [f"{r.numerator}:{r.denominator}" for r in sorted(TALL, reverse=True)]
    tall = [f"{r.denominator}:{r.numerator}" for r in sorted(TALL) if r != 1]
    return wide + tall


def full_schedule(ratio: str) -> Schedule:
    """The 1M schedule of a ratio given as width:height, "3:2" or "2:3"."""
    try:
        width, height = (int(part) for part in ratio.split(":"))
        tall = Fraction(height, width)
    except (ValueError, ZeroDivisionError):
        tall = Fraction(0)
    if tall in TALL:
        return TALL[tall]
    if tall and 1 / tall in TALL:
        return Schedule(tuple((w, h) for h, w in TALL[1 / tall].scales))
    raise UserError(
        f"no scale schedule for the ratio {ratio!r}",
        where="--ratio",
        rule="a ratio is width:height, one of " + ", ".join(ratios()),
        fix="--ratio 1:1",
    )


def schedule_for(ratio: str, pixels: str) -> Schedule:
    """The schedule of a ratio ("3:2", width:height) at a pixel class ("0.06M" … "1M")."""
    what, smallest = f"no pixel class {pixels!r}", "--pixels 0.06M"
    check_one_of(pixels, PIXEL_CLASSES, what, "--pixels", otherwise=smallest)
    return Schedule(full_schedule(ratio).scales[: PIXEL_CLASSES[pixels]])


def grid_of(schedule: Schedule) -> tuple[int, int]:
    """(rows, columns) of the last map of the 1M schedule that `schedule` is the beginning of.

    The published models place every map on this grid, whatever class they generate.
    """
    for ratio in ratios():
        full = full_schedule(ratio)
        if full.scales[: len(schedule)] == schedule.scales and len(schedule) > 2:
            return full.scales[-1]
    raise UserError(
        f"not the beginning of an official schedule: {schedule}",
        where="schedule",
        rule="maps come from the schedule table of one ratio, at least three scales",
        fix="take it from schedule_for(ratio, pixels)",
    )


NEAREST = 3


def size_of(preset: ModelPreset, ratio: str, pixels: str | None) -> tuple[int, int]:
    """(width, height) in pixels of what a model draws at a ratio and pixel class; None: its own."""
    tokenizer = preset.tokenizer
    side = tokenizer.stride * (2 if tokenizer.patchify else 1)  # pixels of a token
    height, width = schedule_for(ratio, pixels or preset.pixels).scales[-1]
    return width * side, height * side


def class_in_pixels(preset: ModelPreset, pixels: str) -> str:
    """A pixel class, and what it is in pixels for a model at its usual ratio: "1M (1024x1024)"."""
    width, height = size_of(preset, preset.ratio, pixels)
    return f"{pixels} ({width}x{height})"


def sizes_of(preset: ModelPreset) -> dict[tuple[int, int], tuple[str, str]]:
    """Ratio and pixel class by (width, height), of all a model was made for."""
    classes = preset.pixel_classes if preset.ratios else tuple(PIXEL_CLASSES)
    return {
        size_of(preset, ratio, pixels): (ratio, pixels)
        for ratio in preset.ratios or ratios()
        for pixels in classes
    }


def named_size(text: str, preset: ModelPreset, where: str = "--size") -> tuple[str, str]:
    """Ratio and pixel class of a size given as WIDTHxHEIGHT, "1248x832".

    Raises:
        UserError: not such a text, or a size the model does not draw, with the nearest ones.
    """
    match = re.fullmatch(r"\s*(\d{1,6})\s*[xX×]\s*(\d{1,6})\s*", text)
    if match is None or not int(match[1]) or not int(match[2]):
        raise UserError(
            f"cannot read the size {text!r}",
            where=where,
            rule="width x height in pixels",
            fix="1024x1024, for instance",
        )
    width, height = int(match[1]), int(match[2])
    known = sizes_of(preset)
    if (width, height) in known:
        return known[width, height]

    def away(size: tuple[int, int]) -> float:
        return abs(math.log(size[0] / width)) + abs(math.log(size[1] / height))

    near = [f"{w}x{h}" for w, h in sorted(known, key=away)[:NEAREST]]
    raise UserError(
        f"{preset.name} draws no pictures of {width}x{height}",
        where=where,
        rule="sizes follow from the ratios and pixel classes it was made for",
        fix="the nearest " + ("is " if len(near) == 1 else "are ") + ", ".join(near),
    )
