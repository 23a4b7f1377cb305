"""Makes the project importable where it is not installed, and what a bundle carries.

For a machine without network: the wheels of a bundle are unpacked, and the folders of the checkout
are linked as the package `scalekv`. The standard library alone.
"""

from __future__ import annotations

import importlib.util
import sys
import tomllib
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
NEEDED = (
    "torch", "numpy", "PIL", "safetensors", "tokenizers", "transformers", "yaml", "huggingface_hub",
)  # fmt: skip


def prepare(wheels: Path, folder: Path) -> None:
    """Put what is missing on the path, below `folder`.

    Raises:
        SystemExit: something that is neither installed nor carried.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for wheel in sorted(wheels.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
    if importlib.util.find_spec("scalekv") is None:
        _link(folder)
    sys.path.append(str(folder))
    importlib.invalidate_caches()
    if missing := [name for name in (*NEEDED, "scalekv") if importlib.util.find_spec(name) is None]:
        raise SystemExit(
            f"not installed here: {', '.join(missing)}\n"
            f"fix: use a machine that has {', '.join(NEEDED)}"
        )


def _link(folder: Path) -> None:
    """The package as pyproject maps it: the outermost folders, each with what is in it."""
    with (ROOT / "pyproject.toml").open("rb") as stream:
        mapped = tomllib.load(stream)["tool"]["setuptools"]["package-dir"]
    for package, place in mapped.items():
        parts = package.split(".")
        if len(parts) == 2:
            link = folder / parts[0] / parts[1]
            link.parent.mkdir(exist_ok=True)
            if link.is_symlink():
                link.unlink()
            link.symlink_to(ROOT / place)
