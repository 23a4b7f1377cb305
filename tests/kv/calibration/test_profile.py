"""What policies read of a calibration: kinds of heads, and files that are none."""

from __future__ import annotations

import json

import pytest

from scalekv.kv.calibration.profile import AttentionProfile, read_profile
from scalekv.kv.errors import UserError


def content(**changes: object) -> dict[str, object]:
    table = [[[0.5, 0.25], [0.75, 1.0]]] * 3
    names = ("own_mass", "entropy_bits", "attention_variance", "key_change")
    return {**dict.fromkeys(names, table), **changes}


def test_what_is_written_is_read() -> None:
    profile = read_profile(json.dumps(content()))
    assert (profile.scales, profile.layers, profile.heads) == (3, 2, 2)
    assert profile.own[2][1] == (0.75, 1.0)
    assert profile.layer_change == (0.375, 0.875)


def test_heads_whose_attention_differs_from_query_to_query_are_structural() -> None:
    variance = (((9.0, 9.0), (9.0, 9.0)), ((0.1, 0.9), (0.8, 0.12)), ((0.1, 0.7), (0.8, 0.12)))
    flat = (((1.0, 1.0), (1.0, 1.0)),) * 3
    assert AttentionProfile(flat, flat, variance, flat).structural == (
        frozenset({1}),
        frozenset({0}),
    )
    one = (((1.0,),),)
    assert AttentionProfile(one, one, one, one).structural == (frozenset({0}),)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "JSON"),
        ("[]", "no JSON object"),
        (json.dumps({}), "own_mass is missing"),
        (json.dumps(content(key_change=[[["x"]]])), "'x' is no number"),
        (json.dumps(content(key_change=[[[1.0], [1.0, 2.0]]])), "unequal length"),
        (json.dumps(content(key_change=[])), "or none"),
        (json.dumps(content(key_change=3)), "no table"),
        (json.dumps(content(key_change=[[[float("nan")]]])), "nan is no number"),
        (json.dumps(content(key_change=[[[1.0]]])), "2 shapes"),
    ],
)
def test_a_file_that_is_none_is_refused(text: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        read_profile(text, "some.json")
    assert said in str(caught.value)
    assert "some.json" in str(caught.value)
