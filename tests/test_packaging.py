"""What is installed: every package, all data, nothing under a generic name; and what the README
promises about installing."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from itertools import chain
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
FOLDERS: dict[str, str] = PROJECT["tool"]["setuptools"]["package-dir"]
PROGRAM = "cli/program"  # installed as the package itself, for `python -m scalekv`
TOP_FOLDERS = sorted(folder for folder in FOLDERS.values() if "/" not in folder)


def installed(path: str) -> str:
    """The package that a folder of the repository is installed as."""
    return "scalekv" if path == PROGRAM else ".".join(["scalekv", *path.split("/")])


@pytest.fixture(scope="module")
def wheel_names(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Names in a wheel built, without a network, from a copy of what is packaged."""
    copy, out = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for folder in TOP_FOLDERS:
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / folder, copy / folder, ignore=ignore)
    build = f"import setuptools.build_meta as b; b.build_wheel({str(out)!r})"
    done = subprocess.run([sys.executable, "-c", build], cwd=copy, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = out.glob("*.whl")
    return set(zipfile.ZipFile(wheel).namelist())


def test_every_package_is_listed() -> None:
    found = {
        init.parent.relative_to(ROOT).as_posix()
        for folder in TOP_FOLDERS
        for init in (ROOT / folder).rglob("__init__.py")
    }
    assert sorted(found) == sorted(FOLDERS.values())
    assert sorted(FOLDERS) == sorted(PROJECT["tool"]["setuptools"]["packages"])
    for package, folder in FOLDERS.items():
        assert package == installed(folder)


def test_the_wheel_holds_every_file_of_the_packages(wheel_names: set[str]) -> None:
    paths = {
        file.relative_to(ROOT).as_posix()
        for folder in TOP_FOLDERS
        for file in (ROOT / folder).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    files = {f"scalekv/{path.removeprefix(PROGRAM + '/')}" for path in paths}
    assert {name for name in wheel_names if ".dist-info/" not in name} == files


@pytest.mark.parametrize(
    "name",
    [
        "scalekv/configs/models/emoji.yaml",
        "scalekv/configs/budgets/emoji/default.yaml",
        "scalekv/infinity_patch/weights/emoji/transformer.safetensors",
        "scalekv/infinity_patch/weights/emoji/vae.safetensors",
        "scalekv/infinity_patch/weights/emoji/text_encoder/config.json",
        "scalekv/__main__.py",
        *(f"scalekv/{folder}/py.typed" for folder in TOP_FOLDERS),
    ],
)
def test_the_wheel_holds(name: str, wheel_names: set[str]) -> None:
    assert name in wheel_names


def test_no_generic_name_reaches_site_packages(wheel_names: set[str]) -> None:
    tops = {name.split("/")[0] for name in wheel_names}
    assert tops == {"scalekv", f"scalekv-{PROJECT['project']['version']}.dist-info"}


def test_the_tested_set_pins_every_requirement() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {line.split("==")[0] for line in lines if not line.startswith("#")}
    project = PROJECT["project"]
    extras: list[list[str]] = list(project["optional-dependencies"].values())
    for line in chain(project["dependencies"], *extras):
        name = re.split(r"[<>=!~\[; ]", line)[0].lower().replace("_", "-")
        assert name == "scalekv" or name in pinned, f"{line} is not in constraints.txt"


def test_the_readme_begins_with_its_two_commands() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```sh\n(.*?)^```$", readme, flags=re.MULTILINE | re.DOTALL)
    use, test = (block.splitlines() for block in blocks[:2])
    assert len(use) == len(test) == 1, "each of the first two sh blocks is one line"
    for (line,), folder in ((use, ".venv"), (test, ".venv-dev")):
        assert line.startswith(f"python3 -m venv {folder} && {folder}/bin/pip install")
        assert " -c constraints.txt " in line
    assert " generate " in use[0]
    assert test[0].endswith("-m pytest")


@pytest.mark.parametrize("name", ["setup", "check", "test", "../.ci/run"])
def test_scripts_can_be_run(name: str) -> None:
    path = ROOT / "scripts" / name
    assert os.access(path, os.X_OK)
    subprocess.run(["bash", "-n", path], check=True)


def test_what_is_called_slow_is_there() -> None:
    from tests.conftest import SLOW

    assert all((ROOT / name).is_file() for name in SLOW)
