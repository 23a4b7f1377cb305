"""`scalekv selftest` on the built-in model, on one with planted faults, and what it refuses."""

from __future__ import annotations

import getpass
import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from scalekv.cli.selftest import run as module
from scalekv.infinity_patch.files.hub import BUILT_IN
from tests.cli.conftest import Outcome

Program = Callable[..., Outcome]
PLAIN = ("--device", "cpu", "--dtype", "fp32", "--quiet")


def personal(text: str) -> list[str]:
    """What of this machine is in a text."""
    names = [str(Path.home()), str(Path.cwd()), socket.gethostname(), "/tmp/"]
    if getpass.getuser() != "root":
        names.append(getpass.getuser())
    return [name for name in names if len(name) > 2 and name in text]


def test_the_built_in_model_holds(scalekv: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "USUAL", 2)
    done = scalekv("selftest", *PLAIN, "--out", "result")
    assert done.code == 0, done.out + done.err
    *findings, first, second, third = done.out.splitlines()
    assert [first, second, third] == [f"result/selftest.{form}" for form in ("json", "html", "png")]
    assert all(line.startswith(("ok", "note")) for line in findings)
    text = Path(first).read_text()
    result = json.loads(text)
    assert (result["holds"], result["problems"], result["model"]) == (True, 0, "emoji")
    assert [policy["label"] for policy in result["policies"]] == [
        "full",
        "scalekv 10%",
        "coded 10%",
    ]
    assert len(result["policies"][1]["psnr_db"]) == len(result["prompts"]) == 2
    assert result["files"]["damaged"] == []
    page = Path(second).read_text()
    assert "Everything holds." in page
    assert "Share of the full cache" in page
    assert not personal(text + page)
    assert 'src="http' not in page
    with Image.open(third) as sheet:
        assert sheet.width > 3 * 128


def test_planted_faults_are_named(
    scalekv: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A VAE of chance numbers, a transposed matrix, a file that is not what its hash says; all that
    can be tested beside them is."""
    monkeypatch.setattr(module, "QUICK", 1)
    folder = tmp_path / "my weights"
    shutil.copytree(BUILT_IN / "emoji", folder)
    name = "block_chunks.2.module.1.ca.proj.weight"
    state = load_file(folder / "transformer.safetensors")
    state[name] = state[name].T.contiguous()
    save_file(state, folder / "transformer.safetensors")
    vae = load_file(folder / "vae.safetensors")
    generator = torch.Generator().manual_seed(0)
    for key, value in vae.items():
        if value.ndim == 4:
            vae[key] = torch.randn(value.shape, generator=generator) * value.std()
    save_file(vae, folder / "vae.safetensors")
    done = scalekv("selftest", *PLAIN, "--weights-dir", str(folder), "--quick", "--json")
    assert done.code == 1
    result = json.loads(done.out)
    named = [one["name"] for one in result["findings"] if one["level"] == "problem"]
    assert f"transformer, {name}" in named
    assert "VAE, round trip" in named
    assert result["own_weights"]
    assert len(result["policies"]) == 3
    assert not personal(done.out.replace("out/selftest", ""))
    error = json.loads(done.err.splitlines()[-1])["error"]
    assert error["kind"] == "problems"
    assert name in error["what"]


def test_weights_of_another_architecture_are_a_finding(scalekv: Program, tmp_path: Path) -> None:
    folder = tmp_path / "weights"
    shutil.copytree(BUILT_IN / "emoji", folder)
    vae = load_file(folder / "vae.safetensors")
    vae["encoder.conv_out.conv.bias"] = torch.zeros(32)
    save_file(vae, folder / "vae.safetensors")
    done = scalekv("selftest", *PLAIN, "--weights-dir", str(folder), "--quick")
    assert done.code == 1
    assert (
        "problem loading: encoder.conv_out.conv.bias has shape (32,), emoji needs (16,)" in done.out
    )
    assert json.loads(Path("out/selftest.json").read_text())["policies"] == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--official", "nowhere"), ["no folder nowhere", "FoundationVision/Infinity"]),
        (("--model", "infinity-2b"), ["scalekv download infinity-2b"]),
        (("--pixels", "7M"), ["7M"]),
    ],
)
def test_refusals(scalekv: Program, arguments: tuple[str, ...], words: list[str]) -> None:
    done = scalekv("selftest", *arguments)
    assert (done.code, done.out) == (2, "")
    assert all(word in done.err for word in words), done.err
    assert not Path("out").exists()
