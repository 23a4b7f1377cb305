"""Packages that only some commands need: refused by name before anything is done."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from scalekv.kv import extras
from scalekv.kv.errors import UserError

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"


@pytest.mark.parametrize(("package", "extra"), extras.EXTRAS.items())
def test_every_package_is_in_its_extra(package: str, extra: str) -> None:
    name = package.replace("_", "-")
    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    assert any(line.startswith(name) for line in project["optional-dependencies"][extra])
    assert not any(line.startswith(name) for line in project["dependencies"])


def test_one_that_is_missing_is_refused_with_the_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda _: None)
    with pytest.raises(UserError) as caught:
        extras.needs("matplotlib", "the page", "--json to go without")
    assert "the extra plots" in caught.value.rule
    assert caught.value.fix == "pip install matplotlib, or --json to go without"


def test_one_that_is_here_passes() -> None:
    extras.needs("matplotlib", "the page")
