"""Pictures' sizes in pixels: which there are, and which ratio and pixel class they belong to.

Knows presets and schedules. No torch.
"""

from __future__ import annotations

import math
import re

from scalekv.configs.models import ModelPreset
from scalekv.infinity_patch.schedules import PIXEL_CLASSES, ratios, schedule_for
from scalekv.kv.errors import UserError

NEAREST = 3
"""Sizes that a refusal names."""


def size_of(preset: ModelPreset, ratio: str, pixels: str) -> tuple[int, int]:
    """(width, height) in pixels of what a model draws at a ratio and pixel class."""
    tokenizer = preset.tokenizer
    side = tokenizer.stride * (2 if tokenizer.patchify else 1)  # pixels of a token
    height, width = schedule_for(ratio, pixels).scales[-1]
    return width * side, height * side


def sizes_of(preset: ModelPreset) -> dict[tuple[int, int], tuple[str, str]]:
    """Ratio and pixel class by (width, height), of all a model was made for."""
    classes = (preset.pixels,) if preset.ratios else tuple(PIXEL_CLASSES)
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
