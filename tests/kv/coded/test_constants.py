from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import save

from scalekv.kv.coded.constants import (
    ALONE,
    GUIDED,
    read_constants,
    write_constants,
)
from scalekv.kv.coded.levels import OCTAVE
from scalekv.kv.coded.units import map_units
from scalekv.kv.errors import UserError
from tests.kv.coded.made import made_constants


def test_constants_come_back_from_their_file() -> None:
    built = made_constants(groups=7)
    read = read_constants(write_constants(built))
    assert read.sha256 == built.sha256
    assert read.about == {"model": "none"}
    assert (read.layers, read.heads, read.head_dim, read.maps) == (2, 2, 8, 5)
    assert read.nbytes == built.nbytes


def test_a_damaged_file_is_refused() -> None:
    content = bytearray(write_constants(made_constants()))
    content[-1] ^= 1
    with pytest.raises(UserError, match="hash"):
        read_constants(bytes(content))
    for other in (b"", b"something else", bytes(content[:-1]), save({"x": np.zeros(3)})):
        with pytest.raises(UserError, match="no constants of a coded cache") as refused:
            read_constants(other, "c.safetensors")
        assert refused.value.where == "c.safetensors"


def test_arrays_of_another_shape_are_refused() -> None:
    built = made_constants()
    with pytest.raises(UserError, match="weight_map is int16"):
        replace(built, weight_map=built.weight_map[:, :1])


def test_a_longer_schedule_takes_its_last_maps_to_be_alike() -> None:
    built = made_constants(maps=5)
    known, beyond = map_units(4, 8, 8), map_units(9, 16, 16)
    for of in (built.variances, built.importances):
        near, far = of(0, GUIDED, known), of(0, GUIDED, beyond)
        growth = np.zeros_like(near)
        growth[..., 0, :] = 2 * OCTAVE  # the mean of four times as many tokens
        assert np.array_equal(far - near, growth)
    assert np.array_equal(built.means(0, GUIDED, 4), built.means(0, GUIDED, 9))


def test_the_conditional_half_alone_has_the_mean_of_middle_and_side() -> None:
    built = made_constants()
    both, alone = built.means(1, GUIDED, 2), built.means(1, ALONE, 2)
    assert np.array_equal(alone, both.sum(1, keepdims=True))
