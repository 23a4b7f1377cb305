"""A whole run on a few drawings: from a bundle, stopped and called again, every file written."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import yaml

from scalekv.infinity_patch import Request, generate, load
from scalekv.infinity_patch.files.hub import BUILT_IN
from scripts.builtin.bundle import BACKBONE, DRAWINGS, MANIFEST, check, manifest_of, pack_drawings
from scripts.builtin.captions import Row, load_heldout
from scripts.builtin.gpu import files
from scripts.builtin.gpu.pictures import SIDE, prepare
from scripts.builtin.gpu.run import check_work
from scripts.builtin.ship import ship_run

ROOT = Path(__file__).parents[3]
SVG = (
    '<svg xmlns="http://www.w3.org/2000/svg" width="32" height="32" viewBox="0 0 32 32">'
    '<circle cx="16" cy="16" r="{r}" fill="{fill}"/></svg>'
)
CONCEPTS = ("red apple", "octopus", "pizza", sorted(load_heldout().concepts)[0])


STYLES = ("flat", "noto", "fluent")


def packed(folder: Path, concepts: Sequence[str], styles: Sequence[str]) -> Path:
    """Discs for drawings, with the real feature network; no wheels, since all is installed. The
    last concept is held out."""
    pytest.importorskip("resvg_py")
    pytest.importorskip("efficientnet_lite_pytorch")
    from scripts.builtin.bundle import pack_backbone

    rows: list[Row] = []
    svgs: list[str] = []
    for number, concept in enumerate(concepts):
        for style in styles:
            rows.append(
                {
                    "id": f"{number}.{style}",
                    "concept": concept,
                    "style": style,
                    "tags": [],
                    "heldout_concept": concept == concepts[-1],
                    "heldout_style": False,
                }
            )
            svgs.append(SVG.format(r=6 + 2 * number, fill=("#f00", "#0a0", "#00f")[number % 3]))
    pack_drawings(folder / DRAWINGS, rows, svgs)
    pack_backbone(folder / BACKBONE)
    (folder / MANIFEST).write_text(json.dumps(manifest_of(folder)))
    return folder


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return packed(tmp_path_factory.mktemp("bundle"), CONCEPTS, STYLES)


def test_pictures_are_rendered_once_and_nothing_held_out_is_learned(
    bundle: Path, tmp_path: Path
) -> None:
    found = prepare(bundle, tmp_path, 6, jobs=2)
    assert found.images.shape == (12 + 6, SIDE, SIDE, 3)
    assert {row["concept"] for row in found.rows} == set(CONCEPTS[:-1])
    assert {row["style"] for row in found.rows} == {*STYLES}
    assert {row["concept"] for row in found.held_rows} == {CONCEPTS[-1]}
    assert len(found.captions) == 6
    assert (found.images[found.drawn[0]][0, 0] == 255).all()
    assert not (found.images[found.drawn[0]] == 255).all()
    times = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir() if path.suffix == ".npy"}
    again = prepare(bundle, tmp_path, 6, jobs=2)
    assert np.array_equal(again.images, found.images)
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert len(prepare(bundle, tmp_path, 6, jobs=2, limit=6).images) == 6 + 6


def test_checkpoints_of_other_weights_are_not_gone_on_with(tmp_path: Path) -> None:
    shutil.copytree(BUILT_IN / "emoji", tmp_path / "start")
    (tmp_path / "work").mkdir()
    for _ in range(2):
        check_work(tmp_path / "work", tmp_path / "start")
    with (tmp_path / "start" / "vae.safetensors").open("ab") as file:
        file.write(b" ")
    with pytest.raises(SystemExit, match="began with other weights"):
        check_work(tmp_path / "work", tmp_path / "start")


def test_a_damaged_bundle_is_refused(bundle: Path, tmp_path: Path) -> None:
    check(bundle)
    with pytest.raises(SystemExit, match="no bundle at"):
        check(tmp_path)
    (tmp_path / DRAWINGS).write_bytes(b"")
    (tmp_path / MANIFEST).write_bytes((bundle / MANIFEST).read_bytes())
    with pytest.raises(SystemExit, match=f"damaged: .*{DRAWINGS}"):
        check(tmp_path)


def call(bundle: Path, folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable, "-m", "scripts.builtin.train_gpu", "--bundle", str(bundle),
        "--out", str(folder / "out"), "--work", str(folder / "work"), "--device", "cpu",
        "--batch", "1", "--tokenizer-batch", "1", "--compositions", "2", "--jobs", "1",
        "--no-compile", *more,
    ]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, check=False, env=environment, timeout=600
    )


def test_a_run_goes_on_and_leaves_what_can_be_brought_back(tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    bundle = packed(tmp_path / "bundle", (*CONCEPTS[:2], CONCEPTS[-1]), STYLES[:1])
    first = call(bundle, tmp_path, "--tokenizer-seconds", "1", "--transformer-seconds", "1")
    assert first.returncode == 0, first.stderr
    out = tmp_path / "out"
    files.check(out)
    assert {path.name for path in out.iterdir()} == {
        files.VAE, files.TEXT, *files.TRANSFORMER, files.PRESET, files.LOG,
    }  # fmt: skip
    log = json.loads((out / files.LOG).read_text())
    steps = log["tokenizer"]["steps"][-1]["step"], log["transformer"]["steps"][-1]["step"]
    assert min(steps) >= 1
    assert len(log["transformer"]["held_out"]["0.25M"]) == 10
    assert len(log["transformer"]["held_out"]["0.06M"]) == 7
    assert yaml.safe_load((out / files.PRESET).read_text())["pixels"] == "0.25M"

    more = call(bundle, tmp_path, "--tokenizer-seconds", "1", "--transformer-seconds", "3")
    assert more.returncode == 0, more.stderr
    log = json.loads((out / files.LOG).read_text())
    assert log["tokenizer"]["steps"][-1]["step"] == steps[0]
    assert log["transformer"]["steps"][-1]["step"] > steps[1]

    # what it leaves is a model that draws both sizes
    model = tmp_path / "model"
    shutil.copytree(BUILT_IN / "emoji", model)
    ship_run(out, model, model / "emoji.yaml")
    pipeline = load(str(model / "emoji.yaml"), device="cpu")
    for pixels, side in ((None, 256), ("0.06M", 128)):
        asked = Request(("a pizza",), policy="scalekv", budget="10%", pixels=pixels)
        (picture,) = generate(pipeline, asked)
        assert picture.image.size == (side, side)
