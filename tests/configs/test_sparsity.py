"""Which calibration's sparsity is told, and files that are none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from scalekv.configs.sparsity import BESIDE, measured_sparsity
from scalekv.kv.errors import UserError

NUMBERS: dict[str, Any] = {
    "provenance": {
        "model": "emoji",
        "prompts": 3,
        "schedule": "1x1 2x2",
        "weights": "ab" * 32,
        "date": "2026-01-02",
    },
    "sparsity": {"carried": 0.99, "earlier": 0.25},
}


def beside(folder: Path, text: str) -> str:
    (folder / f"own{BESIDE}").write_text(text)
    return str(folder / "own.yaml")


def test_numbers_beside_a_budget_come_before_what_ships(tmp_path: Path) -> None:
    budget = beside(tmp_path, json.dumps(NUMBERS))
    for own_weights in (False, True):
        found = measured_sparsity("emoji", budget, own_weights=own_weights)
        assert found is not None
        assert (found.share, found.prompts) == (0.25, 3)
        assert "3 prompts (weights sha256 abababababab, 2026-01-02)" in found.meaning
        assert "carried by 25.0% of all" in found.meaning


def test_what_ships_is_of_the_weights_that_ship(tmp_path: Path) -> None:
    shipped = measured_sparsity("emoji", "10%")
    assert shipped is not None
    assert 0 < shipped.share <= 1
    assert measured_sparsity("emoji", str(tmp_path / "alone.yaml")) == shipped
    assert measured_sparsity("emoji", "10%", own_weights=True) is None
    assert measured_sparsity("infinity-2b", "10%") is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not readable"),
        ("[]", "not readable"),
        (json.dumps({**NUMBERS, "sparsity": {}}), "earlier|carried"),
        (json.dumps({**NUMBERS, "provenance": {"model": "emoji"}}), "prompts"),
    ],
)
def test_files_that_are_none_are_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        measured_sparsity("emoji", beside(tmp_path, text))


def test_numbers_of_another_model_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="of emoji, not of infinity-2b"):
        measured_sparsity("infinity-2b", beside(tmp_path, json.dumps(NUMBERS)))
