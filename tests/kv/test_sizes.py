"""Numbers of bytes: exact as read, never too small as written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalekv.kv.errors import UserError
from scalekv.kv.sizes import UNITS, parse_size, size_text


@pytest.mark.parametrize(
    ("number", "unit", "nbytes"),
    [
        ("1.5", "GiB", 1_610_612_736),
        ("1.5", "gb", 1_500_000_000),
        ("0.3", "kib", 307),
        ("7", "B", 7),
        ("7", "bytes", 7),
        ("+2", "TB", 2 * 10**12),
    ],
)
def test_sizes_are_exact(number: str, unit: str, nbytes: int) -> None:
    assert parse_size(f"{number}{unit}", "here") == nbytes


@given(st.integers(1, 2**50), st.sampled_from(sorted(UNITS)))
def test_whole_numbers_of_a_unit(count: int, unit: str) -> None:
    assert parse_size(f"{count} {unit}", "here") == count * UNITS[unit]


@given(st.integers(1, 2**50))
def test_what_is_written_is_enough_when_read(nbytes: int) -> None:
    assert nbytes <= parse_size(size_text(nbytes), "here") < nbytes * 1.01 + 1


@pytest.mark.parametrize(
    ("number", "unit", "says"),
    [
        ("1", "G", "thousands or in 1024s"),
        ("1", "mi", "thousands or in 1024s"),
        ("0", "B", "is not a size"),
        ("-3", "GiB", "is not a size"),
        ("0.9", "B", "is not a size"),
        ("1.2.3", "MB", "is not a size"),
        ("1,5", "MB", "is not a size"),
        ("80", "", "cannot read the size"),
        ("80", "GXB", "cannot read the size"),
        ("", "GB", "cannot read the size"),
    ],
)
def test_what_is_no_size_is_refused(number: str, unit: str, says: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_size(f"{number}{unit}", "here")
    assert says in caught.value.what
    assert caught.value.where == "here"
    assert caught.value.rule
