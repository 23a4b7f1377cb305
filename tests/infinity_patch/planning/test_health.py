"""What the doctor finds, on machines that are made ill on purpose."""

from __future__ import annotations

import importlib
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from scalekv.configs.models import model_named
from scalekv.infinity_patch.files.hub import BUILT_IN
from scalekv.infinity_patch.planning import health
from scalekv.infinity_patch.planning.health import Finding, Level, examine, gpus

EMOJI = model_named("emoji")
DRIVER = '#!/bin/sh\necho "NVIDIA H200, 570.1, 143771, 143000, 7"\n'


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache, and no driver."""
    cache = tmp_path / "hub"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return cache


def driver(tmp_path: Path, text: str) -> None:
    """A program in place of the driver's."""
    path = tmp_path / "bin" / "nvidia-smi"
    path.parent.mkdir()
    path.write_text(text)
    path.chmod(0o755)


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


def test_a_gpu_that_this_torch_cannot_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver(tmp_path, DRIVER)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    (problem,) = problems()
    assert (problem.name, "without CUDA" in problem.found) == ("device", True)
    assert "pip install 'torch==" in problem.fix
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    (problem,) = problems()
    assert "the driver 570.1 shows GPUs" in problem.found


def test_what_the_driver_says(tmp_path: Path) -> None:
    driver(tmp_path, DRIVER)
    assert gpus() == [health.Gpu("NVIDIA H200", "570.1", 143771 << 20, 143000 << 20, 0.07)]


@pytest.mark.parametrize(
    "text", ["#!/bin/sh\nexit 9\n", "#!/bin/sh\necho no devices\n", "no program"]
)
def test_a_driver_that_says_nothing(tmp_path: Path, text: str) -> None:
    driver(tmp_path, text)
    assert not gpus()


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
