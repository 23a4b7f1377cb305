"""What a run leaves is few small files, and `ship` makes the package's of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from scalekv.configs.models import read_preset
from scalekv.infinity_patch.files.hashes import read_sums
from scalekv.infinity_patch.files.hub import BUILT_IN
from scripts.builtin.gpu import files
from scripts.builtin.gpu.start import SCALES, next_preset, start
from scripts.builtin.ship import PARTS, ship_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped weights, as a run that changed nothing would leave them."""
    out = tmp_path_factory.mktemp("run")
    weights = start(BUILT_IN / "emoji", next_preset().transformer)
    files.save_transformer(out, weights.transformer, 10)
    files.save_tensors(out / files.VAE, weights.vae, 10)
    words = {n: t for n, t in weights.text.items() if n != "encoder.embed_tokens.weight"}
    files.save_tensors(out / files.TEXT, words, 10)
    files.save_log(out, {"seconds": {}})
    return out


def test_files_are_few_and_small(run: Path) -> None:
    files.check(run)
    sizes = [path.stat().st_size for path in run.iterdir()]
    assert len(sizes) <= 8
    assert max(sizes) <= 16_000_000
    assert (
        files.load_transformer(run).keys()
        == start(BUILT_IN / "emoji", next_preset().transformer).transformer.keys()
    )


def test_what_may_not_be_brought_back_is_refused(run: Path, tmp_path: Path) -> None:
    for number in range(9):
        (tmp_path / f"{number}.txt").write_text("")
    with pytest.raises(AssertionError, match=r"0\.txt"):
        files.check(tmp_path)


def test_a_run_is_shipped_with_its_preset(run: Path, tmp_path: Path) -> None:
    target = tmp_path / "emoji"
    for name in PARTS:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_bytes((BUILT_IN / "emoji" / name).read_bytes())
    total = ship_run(run, target, tmp_path / "emoji.yaml")
    assert total <= 28_000_000
    assert total == sum((target / name).stat().st_size for name in PARTS)
    assert sorted(read_sums(target)) == sorted(PARTS)
    preset = read_preset(tmp_path / "emoji.yaml")
    assert preset.transformer == next_preset().transformer
    with safe_open(target / "transformer.safetensors", "pt") as file:
        assert file.metadata()[SCALES] == "10"
    assert start(target, preset.transformer).scales == 10
    shipped = load_file(target / "vae.safetensors")
    assert all(tensor.dtype == torch.bfloat16 for tensor in shipped.values())
    assert not list(target.rglob("*.tmp"))
