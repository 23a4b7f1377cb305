"""What of attention is recorded, as people say it."""

from __future__ import annotations

import pytest

from scalekv.configs.recorded import AttentionChoice, attention_choice
from scalekv.configs.values import Unreadable


@pytest.mark.parametrize(
    ("text", "layers", "scales"),
    [
        ("qkv", None, None),
        ("qkv:layers=0,4", (0, 4), None),
        ("qkv:scales=5-7:layers=4,0-1,1", (0, 1, 4), (4, 5, 6)),
        ("qkv:scales=1", None, (0,)),
    ],
)
def test_what_can_be_said(
    text: str, layers: tuple[int, ...] | None, scales: tuple[int, ...] | None
) -> None:
    assert attention_choice(text) == AttentionChoice(layers, scales)


def test_nothing() -> None:
    assert attention_choice("") is None


@pytest.mark.parametrize(
    "text",
    [
        "kv",
        "qkv:",
        "qkv:heads=1",
        "qkv:scales=0",
        "qkv:layers=3-1",
        "qkv:layers=",
        "qkv:layers=a",
        "qkv:layers=1:layers=2",
        3,
    ],
)
def test_what_cannot(text: object) -> None:
    with pytest.raises(Unreadable, match="layers from 0, scales from 1"):
        attention_choice(text)


def test_of_a_model() -> None:
    assert AttentionChoice().of(2, 3) == ((0, 1), (0, 1, 2))
    with pytest.raises(ValueError, match="layer 2, where layers go from 0 to 1"):
        AttentionChoice(layers=(0, 2)).of(2, 3)
    with pytest.raises(ValueError, match="scale 4, where scales go from 1 to 3"):
        AttentionChoice(scales=(3,)).of(2, 3)
