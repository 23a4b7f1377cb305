"""What a machine without network is given, and how it finds the project there."""

from __future__ import annotations

import json
import lzma
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from scripts.builtin import bare
from scripts.builtin.bundle import pack_drawings, pack_wheels
from scripts.builtin.dataset import STYLES, sources
from scripts.builtin.fetch import EMOJIBASE, FLUENT, FLUENT_FLAT, NOTO, NOTO_V1


def test_drawings_are_packed_style_by_style(tmp_path: Path) -> None:
    rows = [{"id": f"{n}.{style}", "style": style} for n in range(2) for style in STYLES]
    pack_drawings(tmp_path / "d.xz", rows, [row["id"] + "é" for row in rows])
    lines = lzma.decompress((tmp_path / "d.xz").read_bytes()).decode("utf-8").splitlines()
    found = [json.loads(line) for line in lines]
    assert [line["row"]["style"] for line in found] == [s for s in STYLES for _ in range(2)]
    assert all(line["svg"] == line["row"]["id"] + "é" for line in found)


def test_every_style_names_its_packages_once() -> None:
    assert sources(STYLES) == [FLUENT_FLAT, NOTO, FLUENT, NOTO_V1, EMOJIBASE]
    assert sources() == [FLUENT_FLAT, NOTO, EMOJIBASE]
    assert {package.licence for package in sources(STYLES)} == {"MIT", "Apache-2.0"}


def test_a_wheel_without_a_pinned_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "constraints.txt").write_text("resvg_py==0.5.0  # a comment\n")
    with pytest.raises(SystemExit, match="no version of efficientnet-lite-pytorch"):
        pack_wheels(tmp_path, tmp_path / "constraints.txt")


def test_wheels_and_the_checkout_are_importable_where_nothing_is_installed(tmp_path: Path) -> None:
    (tmp_path / "wheels").mkdir()
    with zipfile.ZipFile(tmp_path / "wheels" / "carried-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("carried/__init__.py", "VALUE = 7\n")
    program = (
        "import sys, importlib.util\n"
        "sys.meta_path[:] = [f for f in sys.meta_path if 'editable' not in repr(f).lower()]\n"
        "from scripts.builtin import bare\n"
        f"bare.NEEDED = {('json',)!r}\n"
        "from pathlib import Path\n"
        f"bare.prepare(Path({str(tmp_path / 'wheels')!r}), Path({str(tmp_path / 'bare')!r}))\n"
        "import carried, scalekv.kv.schedule, scalekv.configs.models\n"
        "assert carried.VALUE == 7\n"
        "print(scalekv.kv.schedule.__file__)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=bare.ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("kv/schedule.py")
    assert (tmp_path / "bare" / "scalekv" / "infinity_patch").is_symlink()


def test_what_is_neither_installed_nor_carried_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bare, "NEEDED", ("json", "no_such_module"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(SystemExit, match="not installed here: no_such_module"):
        bare.prepare(tmp_path, tmp_path / "bare")
