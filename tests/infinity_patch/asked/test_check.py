"""Everything that is refused before weights are read."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from scalekv.configs.models import model_named
from scalekv.infinity_patch.asked.check import check
from scalekv.infinity_patch.asked.request import Request
from scalekv.infinity_patch.asked.settled import settle
from scalekv.infinity_patch.schedules import sizes_of
from scalekv.kv.errors import UserError

GOOD = Request(("a red apple",))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"prompts": ()}, "no prompt"),
        ({"prompts": ("a cat", " ")}, "empty"),
        ({"prompts": ("word " * 600,)}, "tokens"),
        ({"negative": "word " * 600}, "tokens"),
        ({"num_images": 0}, "0 pictures"),
        ({"seed": -1}, "seed -1"),
        ({"seed": 2**63 - 1, "num_images": 2}, "seed"),
        ({"policy": "snap"}, "no policy named"),
        ({"budget": "0%"}, "0%"),
        ({"budget": "paper-10"}, "paper-10"),
        ({"budget": "nowhere.yaml"}, "nowhere.yaml"),
        ({"budget": "1.5G"}, "1.5G may be meant"),
        ({"budget": "5KB"}, "5KB is less than one token"),
        ({"ratio": "16:9"}, "no scale schedule"),
        ({"ratio": "3:2"}, "not made for the ratio"),
        ({"pixels": "2M"}, "no pixel class"),
        ({"cfg": (1.0, 2.0)}, "2 values for 7 scales"),
        ({"cfg": float("nan")}, "not a number"),
        ({"pixels": "0.25M"}, "not made for the pixel class"),
        ({"tau": 0.0}, "temperature"),
        ({"tau": 1e-320}, "temperature"),
        ({"top_p": 1.5}, "top-p"),
        ({"cfg_layer": 1}, "guidance layer 1"),
        ({"cfg_layer": -9}, "guidance layer -9"),
        ({"cfg_layer": ()}, "guidance layer"),
        ({"cfg_layer": (0, -1)}, "at once"),
        ({"prompts": ("man " * 505,), "positive_prompt": True}, "tokens"),
    ],
)
def test_refused(change: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        check(replace(GOOD, **change), model_named("emoji"))


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"budget": 40},
        {"budget": "full"},
        {"budget": "1.5GiB"},
        {"cfg": [1.0] * 7},
        {"tau": 1, "top_p": 0},
        {"cfg_layer": (-1, -8)},
        {"prompts": ("word " * 600,), "truncate": True},
    ],
)
def test_accepted(change: dict[str, Any]) -> None:
    check(replace(GOOD, **change), model_named("emoji"))


def test_bytes_are_checked_for_the_dtype_and_guidance_that_are_known() -> None:
    preset = model_named("emoji")
    spec = preset.transformer
    token = spec.depth * spec.heads * spec.head_dim * 2  # k and v of one sequence, a byte each
    least = replace(GOOD, budget=f"{4 * token}B")
    check(least, preset, dtype="bf16")
    check(least, preset, device="cuda")  # where auto comes to bf16
    with pytest.raises(UserError, match="less than one token"):
        check(least, preset, dtype="fp32")
    check(replace(least, cfg=1.0), preset, dtype="fp32")  # no second half
    two = replace(least, batch_size=2, reproducible=False)
    with pytest.raises(UserError, match="less than one token") as caught:
        check(two, preset, dtype="bf16")  # bytes are for both pictures of a batch
    assert f"{8 * token // 1024}KiB" in caught.value.fix
    check(replace(two, budget=f"{8 * token}B"), preset, dtype="bf16")


def test_names_of_devices_and_dtypes_are_checked() -> None:
    with pytest.raises(UserError, match="no device"):
        check(GOOD, model_named("emoji"), device="gpu")
    with pytest.raises(UserError, match="no dtype"):
        check(GOOD, model_named("emoji"), dtype="fp64")


def test_bytes_come_to_a_mean() -> None:
    preset = model_named("emoji")
    tenth = settle(GOOD, preset, "cpu", "fp32").shape.bytes_of(26)
    asked = replace(GOOD, budget=f"{tenth}B")
    assert settle(asked, preset, "cpu", "fp32").asked.mean == 26
    assert settle(asked, preset, "cpu", "bf16").asked.mean == 52


def test_a_model_draws_every_pixel_class_that_it_was_trained_for() -> None:
    preset = replace(model_named("emoji"), pixels="0.25M", pixels_too=("0.06M",))
    for pixels in (None, "0.25M", "0.06M"):
        check(replace(GOOD, pixels=pixels), preset)
    assert set(sizes_of(preset)) == {(256, 256), (128, 128)}
    with pytest.raises(UserError, match=r"0\.25M \(256x256\) or 0\.06M \(128x128\)"):
        check(replace(GOOD, pixels="1M"), preset)
