from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load, save

from scalekv.kv.coded.constants import (
    ALONE,
    FORMAT,
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


def test_files_of_0_2_0_are_read_and_are_the_same_constants() -> None:
    built = made_constants()
    arrays = load(write_constants(built))
    arrays["weight_map"] = arrays["weight_map"][:, :, 0, ..., 0]
    metadata = {"format": FORMAT, "about": "{}", "sha256": built.sha256}
    read = read_constants(save(arrays, metadata))
    assert read.sha256 == built.sha256
    assert np.array_equal(read.weight_map, built.weight_map)


@pytest.mark.parametrize("parts", [GUIDED, ALONE], ids=["guided", "alone"])
@pytest.mark.parametrize("apart", [False, True], ids=["of maps", "of units and channels"])
def test_importances_are_variances_and_weights(parts: slice, apart: bool) -> None:
    built = made_constants(apart=apart)
    units = map_units(3, 6, 6)
    importances = built.importances(1, parts, units) - built.variances(1, parts, units)
    for row, part in enumerate(range(*parts.indices(3))):
        for column, band in enumerate(units.bands):
            at = (part, 0, 3, band) if apart else (0, 0, 3, 0)
            expected = built.weight_map[(1, 1, *at)] + built.weight_channel[1, 1, part, 0]
            assert np.array_equal(importances[1, row, 0, column], expected)


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
