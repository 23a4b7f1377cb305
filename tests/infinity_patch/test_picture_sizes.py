"""Sizes in pixels, and the ratio and pixel class each belongs to."""

from __future__ import annotations

import pytest

from scalekv.configs.models import list_models, model_named
from scalekv.infinity_patch.schedules import PIXEL_CLASSES, named_size, ratios, size_of, sizes_of
from scalekv.kv.errors import UserError


@pytest.mark.parametrize(
    ("model", "size", "ratio", "pixels"),
    [
        ("infinity-2b", "1024x1024", "1:1", "1M"),
        ("infinity-2b", "1248x832", "3:2", "1M"),
        ("infinity-2b", "832 X 1248", "2:3", "1M"),
        ("infinity-8b", "512×512", "1:1", "0.25M"),  # patchify: two codes of stride 8 a token
        ("infinity-2b", "1776x592", "3:1", "1M"),
        ("infinity-125m", "256x256", "1:1", "0.06M"),
        ("emoji", "128x128", "1:1", "0.06M"),
    ],
)
def test_known_sizes(model: str, size: str, ratio: str, pixels: str) -> None:
    preset = model_named(model)
    assert named_size(size, preset) == (ratio, pixels)
    width, height = size_of(preset, ratio, pixels)
    assert size.lower().replace(" ", "").replace("×", "x") == f"{width}x{height}"


@pytest.mark.parametrize("name", list_models())
def test_every_ratio_and_class_has_a_size_of_its_own(name: str) -> None:
    preset = model_named(name)
    count = 1 if preset.ratios else len(ratios()) * len(PIXEL_CLASSES)
    assert len(sizes_of(preset)) == count
    for (width, height), (ratio, _) in sizes_of(preset).items():
        wide, tall = (int(part) for part in ratio.split(":"))
        assert width / height == pytest.approx(wide / tall, rel=0.08)


def test_the_nearest_sizes_are_named() -> None:
    with pytest.raises(UserError, match="no pictures of 1280x832") as error:
        named_size("1280x832", model_named("infinity-2b"))
    assert error.value.fix.startswith("the nearest are 1248x832, ")
    with pytest.raises(UserError, match="1024x1024") as error:
        named_size("1024x1024", model_named("emoji"))
    assert error.value.fix == "the nearest is 128x128"


@pytest.mark.parametrize("text", ["", "1024", "axb", "0x5", "-1x5", "1024x1024x3", "9999999x1"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(UserError, match="cannot read the size"):
        named_size(text, model_named("infinity-2b"))
