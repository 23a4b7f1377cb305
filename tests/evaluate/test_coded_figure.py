"""The figure of PSNR over bytes has what the pages' tables have."""

from __future__ import annotations

import pytest

from scripts.evaluate.coded_figure import ROW, points


def test_every_policy_of_the_tables_has_its_points() -> None:
    found = points()
    assert [share for share, *_ in found["coded"]] == [10, 5, 2.5, 1]
    assert {10, 20} <= {share for share, *_ in found["scalekv"]} & {
        share for share, *_ in found["heatkv"]
    }
    for its in found.values():
        assert all(low <= value <= high for _, value, low, high in its)


@pytest.mark.parametrize(
    ("row", "psnr"),
    [
        ("| h2o | 20% | auto | 64 | 24.1 (23.0 to 25.2) | 0.9 |", "24.1"),
        ("| coded | 2.5% | 64 | 2.5 % | 28.7 (27.9 to 29.6) | 29.0 |", "28.7"),
        ("| h2o | 20% | int8 | 64 | 24.1 (23.0 to 25.2) | 0.9 |", None),
        ("| coded | 10% | 10.0 % | 33.2 (32.2 to 34.1) | 0.979 |", None),
    ],
    ids=["plain", "coded", "held otherwise", "another model's"],
)
def test_rows_are_read_that_are_of_the_same_pictures(row: str, psnr: str | None) -> None:
    match = ROW.match(row)
    assert (match and match[3]) == psnr
