"""Loading: whole and fitting files only, with a message for each other kind."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from scalekv.configs.models import model_named
from scalekv.infinity_patch.checkpoint import WeightsDamaged, open_checkpoint
from scalekv.infinity_patch.hub import BUILT_IN, WeightsMissing
from scalekv.infinity_patch.loader import load
from scalekv.infinity_patch.request import Request, check
from scalekv.kv.errors import UserError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the built-in model's files."""
    return Path(shutil.copytree(BUILT_IN / "emoji", tmp_path / "emoji"))


def test_weights_are_counted_and_kept_in_the_asked_dtype(folder: Path) -> None:
    pipeline = load("emoji", device="cpu", dtype="bf16", weights_dir=folder)
    assert pipeline.model.compute_dtype == torch.bfloat16
    assert pipeline.model.word_embed.weight.dtype == torch.float32
    assert pipeline.weights_bytes["vae"] == 4 * sum(p.numel() for p in pipeline.vae.parameters())


def test_a_missing_file_is_named(folder: Path) -> None:
    (folder / "vae.safetensors").unlink()
    with pytest.raises(WeightsMissing, match=r"vae\.safetensors is missing"):
        load("emoji", weights_dir=folder)


def test_published_weights_name_the_command_that_fetches_them() -> None:
    with pytest.raises(WeightsMissing) as error:
        load("infinity-2b")
    assert error.value.fix == "scalekv download infinity-2b"


def test_a_cut_file_is_refused(folder: Path) -> None:
    path = folder / "transformer.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(WeightsDamaged, match="cannot be read"):
        load("emoji", weights_dir=folder)


def test_a_pickle_is_refused_unopened(folder: Path) -> None:
    path = folder / "vae.safetensors"
    torch.save({"encoder": torch.zeros(1)}, path)
    with pytest.raises(WeightsDamaged):
        load("emoji", weights_dir=folder)


def test_swapped_files_name_a_tensor_and_the_likely_cause(folder: Path) -> None:
    shutil.copy(folder / "vae.safetensors", folder / "transformer.safetensors")
    with pytest.raises(WeightsDamaged, match="cfg_uncond is missing") as error:
        load("emoji", weights_dir=folder)
    assert "belong together" in error.value.rule


def test_another_shape_is_refused(folder: Path) -> None:
    path = folder / "transformer.safetensors"
    tensors = load_file(path)
    tensors["head.bias"] = tensors["head.bias"][:-2].clone()
    save_file(tensors, path)
    with pytest.raises(WeightsDamaged, match=r"head\.bias has shape"):
        load("emoji", weights_dir=folder)


def test_a_damaged_text_encoder_is_refused(folder: Path) -> None:
    path = folder / "text_encoder" / "model.safetensors"
    whole = path.read_bytes()
    for damage in (b"nothing", whole[:-1000]):
        path.write_bytes(damage)
        with pytest.raises(UserError, match="text encoder"):
            load("emoji", weights_dir=folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_a_missing_part_of_the_text_encoder_is_named(folder: Path, name: str) -> None:
    (folder / "text_encoder" / name).unlink()
    with pytest.raises(WeightsMissing, match=f"{name} is missing"):
        load("emoji", weights_dir=folder)


def test_a_damaged_tokenizer_is_refused(folder: Path) -> None:
    (folder / "text_encoder" / "tokenizer.json").write_text('{"version":', encoding="utf-8")
    with pytest.raises(UserError, match=r"tokenizer\.json cannot be read"):
        check(Request(("a cat",)), model_named("emoji"), folder)


@pytest.mark.parametrize(("option", "value"), [("device", "toaster"), ("dtype", "fp7")])
def test_unknown_devices_and_dtypes_are_refused(option: str, value: str) -> None:
    with pytest.raises(UserError, match=value):
        load("emoji", **{option: value})


TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "b.bias": torch.ones(4)}


@pytest.mark.parametrize(
    "layout",
    [TENSORS, {"vae": TENSORS}, {"trainer": {"gpt_fsdp": TENSORS}, "epoch": 3}],
    ids=["plain", "vae", "training"],
)
def test_pytorch_files_of_every_layout(layout: dict[str, object], tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    torch.save(layout, path)
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.shapes == {"a.weight": (2, 3), "b.bias": (4,)}
        assert torch.equal(checkpoint.read("a.weight"), TENSORS["a.weight"])


def shards(folder: Path) -> Path:
    """TENSORS in two shards with their index."""
    folder.mkdir()
    places = {}
    for number, (name, tensor) in enumerate(TENSORS.items(), start=1):
        places[name] = f"model-0000{number}-of-00002.safetensors"
        save_file({name: tensor}, folder / places[name])
    index = {"metadata": {}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    return folder


def test_shards_are_read_through_their_index(tmp_path: Path) -> None:
    with open_checkpoint(shards(tmp_path / "weights")) as checkpoint:
        for name, tensor in TENSORS.items():
            assert torch.equal(checkpoint.read(name), tensor)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    folder = shards(tmp_path / "weights")
    (folder / "model-00002-of-00002.safetensors").unlink()
    with (
        pytest.raises(WeightsDamaged, match="model-00002-of-00002"),
        open_checkpoint(folder),
    ):
        pass


class Bomb:
    """Unpickling it would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return Path.touch, (self.path,)  # type: ignore[return-value]


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    path, mark = tmp_path / "model.pth", tmp_path / "mark"
    torch.save({"a.weight": Bomb(mark)}, path)
    with pytest.raises(WeightsDamaged, match="cannot be read"), open_checkpoint(path):
        pass
    assert not mark.exists()


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 cut"])
def test_other_files_are_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    path.write_bytes(content)
    with pytest.raises(WeightsDamaged), open_checkpoint(path):
        pass


def test_a_tensor_too_many_is_refused(folder: Path) -> None:
    path = folder / "vae.safetensors"
    save_file(load_file(path) | {"decoder.up.9.conv.weight": torch.ones(1)}, path)
    with pytest.raises(WeightsDamaged, match=r"up\.9\.conv\.weight is in the file"):
        load("emoji", weights_dir=folder)
