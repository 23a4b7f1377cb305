"""What the doctor finds, on machines that are made ill on purpose."""

from __future__ import annotations

import importlib
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from scalekv.configs.models import model_named
from scalekv.infinity_patch.files import hub as hub_module
from scalekv.infinity_patch.files.hub import BUILT_IN
from scalekv.infinity_patch.machine.gpus import DriverFailed, Gpu
from scalekv.infinity_patch.planning import health
from scalekv.infinity_patch.planning.health import Finding, Level, examine

EMOJI = model_named("emoji")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache, and no driver."""
    cache = tmp_path / "hub"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(health, "gpus", list)
    return cache


def problems(
    model: str = "emoji", weights_dir: Path | None = None, out: Path = Path(), full: bool = False
) -> list[Finding]:
    found = examine(model_named(model), weights_dir, out, thorough=full)
    return [finding for finding in found if finding.level is Level.PROBLEM]


def test_a_healthy_machine(tmp_path: Path) -> None:
    found = {finding.name: finding for finding in examine(EMOJI, None, tmp_path / "a" / "b")}
    assert not problems(out=tmp_path / "a" / "b", full=True)
    assert found["torch"].found.startswith(torch.__version__)
    assert "every file opens" in found["model emoji"].found
    assert not (tmp_path / "a").exists()


def test_missing_weights() -> None:
    (problem,) = problems("infinity-2b")
    assert (problem.name, problem.fix) == ("model infinity-2b", "scalekv download infinity-2b")


def test_a_download_that_was_interrupted(own_cache: Path) -> None:
    partial = own_cache / "models--FoundationVision--Infinity" / health_partials()
    partial.mkdir(parents=True)
    (partial / ("infinity_2b_reg.pth." + "0" * 16)).write_bytes(b"half")
    (problem,) = problems("infinity-2b")
    assert "partly downloaded" in problem.found
    assert "infinity_2b_reg.pth" in problem.found
    assert problem.fix == "scalekv download infinity-2b"


def health_partials() -> str:
    from scalekv.infinity_patch.files.cache_layout import PARTIALS

    return PARTIALS


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("transformer.safetensors", "transformer"),
        ("vae.safetensors", "VAE"),
        ("text_encoder/model.safetensors", "text encoder"),
    ],
)
def test_a_file_that_is_not_whole(tmp_path: Path, name: str, label: str) -> None:
    folder = tmp_path / "weights"
    shutil.copytree(BUILT_IN / "emoji", folder)
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[: len(whole) // 2])
    (problem,) = problems(weights_dir=folder)
    assert problem.name == f"model emoji, {label}"
    assert str(folder / name) in problem.found
    assert problem.fix


def test_folders_that_cannot_be_written_to(tmp_path: Path, own_cache: Path) -> None:
    (tmp_path / "file").write_text("")
    own_cache.write_text("")
    found = problems(out=tmp_path / "file" / "pictures")
    assert [problem.name for problem in found] == ["cache folder", "output folder"]
    assert "HF_HOME" in found[0].fix
    assert "--out" in found[1].fix


def test_a_full_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nearly_full = SimpleNamespace(free=1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: nearly_full)
    assert [p.name for p in problems(out=tmp_path)] == ["cache folder", "output folder"]


def test_a_gpu_that_this_torch_cannot_use(monkeypatch: pytest.MonkeyPatch) -> None:
    card = Gpu("NVIDIA H200", "570.1", 143771 << 20, 143000 << 20, 0.07)
    monkeypatch.setattr(health, "gpus", lambda: [card])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    (problem,) = problems()
    assert (problem.name, "without CUDA" in problem.found) == ("device", True)
    assert "pip install 'torch==" in problem.fix
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    (problem,) = problems()
    assert "the driver 570.1 shows GPUs" in problem.found


def test_a_driver_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> list[Gpu]:
        raise DriverFailed("Driver/library version mismatch")

    monkeypatch.setattr(health, "gpus", fails)
    found = {problem.name: problem for problem in problems()}
    assert "version mismatch" in found["GPU"].found
    assert found["GPU"].fix


def test_a_torch_that_cannot_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> object:
        raise OSError(f"{name}: libcudart.so.13: cannot open shared object file")

    monkeypatch.setattr(importlib, "import_module", broken)
    (problem,) = problems()
    assert problem.name == "torch"
    assert "libcudart" in problem.found


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_a_real_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    found = {finding.name: finding for finding in examine(EMOJI, None, Path())}
    assert found["cuda:0"].level is Level.FINE
    assert "compute" in found["cuda:0"].found


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize("where", ["folder", "package"])
def test_hashes_are_compared_wherever_the_files_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listed: bool, where: str
) -> None:
    folder = Path(shutil.copytree(BUILT_IN / "emoji", tmp_path / "emoji"))
    if not listed:
        (folder / "SHA256SUMS").unlink()
    weights_dir = folder if where == "folder" else None
    if where == "package":
        monkeypatch.setattr(hub_module, "BUILT_IN", tmp_path)
    path = folder / "transformer.safetensors"

    def weights() -> Finding:
        found = list(examine(EMOJI, weights_dir, tmp_path / "out", thorough=True))
        return next(f for f in found if f.name.startswith("model emoji"))

    finding = weights()
    assert finding.level is Level.FINE
    assert "6 compared with their hashes" in finding.found
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    finding = weights()
    if listed:
        assert (finding.level, str(path) in finding.found) == (Level.PROBLEM, True)
        assert finding.fix
    else:  # somebody's own weights, for all that is known
        assert (finding.level, "of 1 no hash" in finding.found) == (Level.NOTE, True)


def test_a_text_cache_and_what_it_takes(tmp_path: Path) -> None:
    def found(folder: Path) -> Finding:
        findings = examine(EMOJI, None, tmp_path, text_cache=folder)
        return next(one for one in findings if one.name == "text cache")

    assert "text cache" not in {one.name for one in examine(EMOJI, None, tmp_path)}
    assert found(tmp_path / "cache").level is Level.FINE
    assert not (tmp_path / "cache").exists()
    entry = tmp_path / "cache" / "ab" / ("ab" * 32 + ".safetensors")
    entry.parent.mkdir(parents=True)
    entry.write_bytes(bytes(2048))
    assert "features of 1 prompts, 2.0 KiB" in found(tmp_path / "cache").found
    assert found(entry).level is Level.PROBLEM
