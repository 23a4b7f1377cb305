"""The recorded runs of the official code, every one of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.golden.__main__ import OWN, main
from tests.golden.replay import cases, replay


@pytest.mark.parametrize("path", cases(OWN), ids=lambda p: p.stem)
def test_case(path: Path) -> None:
    outcome = replay(path)
    assert outcome.ok, outcome.failures


def test_all_cases_are_here() -> None:
    assert len(cases(OWN)) == 10


def test_an_empty_folder_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["golden", str(tmp_path)])
    assert main() == 1
