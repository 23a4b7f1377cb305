"""Budgets written as text read back as they were."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalekv.configs.budget_files import budget_text, drafters_from, list_budgets, load_budget
from scalekv.kv.budgets.asked import BudgetSpec
from scalekv.kv.budgets.drafters import drafters_by_scale
from scalekv.kv.schedule import Schedule

SEVEN = Schedule.parse("1x1 2x2 4x4 6x6 8x8 12x12 16x16")
words = st.text(st.characters(categories=("L", "N", "P"), codec="utf-8"), min_size=1, max_size=8)
layers = st.lists(st.integers(0, 7), unique=True, max_size=8).map(lambda row: tuple(sorted(row)))
specs = st.builds(
    BudgetSpec,
    name=st.just("own"),
    model=words,
    layers=st.just(8),
    drafters=layers | st.dictionaries(st.integers(1, 13), layers, min_size=1, max_size=3),
    window=st.integers(1, 64),
    provenance=st.lists(words, min_size=1, max_size=60).map(" ".join),
)
percents = st.integers(1, 1000).map(lambda tenths: Fraction(tenths, 10))


def read_back(spec: BudgetSpec, path: Path) -> BudgetSpec:
    path.write_text(budget_text(spec, "A comment: with a colon"), encoding="utf-8")
    return replace(load_budget(path), name=spec.name)


@given(specs, st.integers(1, 9999), percents, st.booleans())
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory,
    spec: BudgetSpec,
    mean: int,
    percent: Fraction,
    in_tokens: bool,
) -> None:
    spec = replace(spec, mean=mean) if in_tokens else replace(spec, percent=percent)
    path = tmp_path_factory.getbasetemp() / "own.yaml"
    assert read_back(spec, path) == spec


@pytest.mark.parametrize("spec", list_budgets(), ids=lambda spec: f"{spec.model}/{spec.name}")
def test_the_shipped_budgets_survive(spec: BudgetSpec, tmp_path: Path) -> None:
    assert read_back(spec, tmp_path / "own.yaml") == spec


def test_capacities_survive(tmp_path: Path) -> None:
    rows = {4: (20, 18), 5: (30, 8), 6: (30, 8), 7: (30, 8)}
    spec = BudgetSpec(
        "own", "m", 2, (0,), mean=19, capacities=rows, schedule=SEVEN, provenance="by hand"
    )
    assert read_back(spec, tmp_path / "own.yaml") == spec


@given(st.integers(1, 6), st.lists(layers, min_size=1, max_size=7))
def test_drafters_of_single_scales_come_out_as_they_were(
    first: int, rows: list[tuple[int, ...]]
) -> None:
    rows = rows[: 7 - first]
    by_scale = dict(enumerate(rows, start=first))
    found = drafters_by_scale(drafters_from(by_scale), SEVEN, 8)
    assert {scale: found[scale] for scale in by_scale} == by_scale
