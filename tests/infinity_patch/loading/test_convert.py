"""Copies of weights: the same pictures, mapped instead of converted, whole or not there."""

from __future__ import annotations

import json
import os
import shutil
import stat
import sys
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from scalekv.configs.models import model_named, read_preset
from scalekv.infinity_patch import Request, generate, load
from scalekv.infinity_patch.files.hub import BUILT_IN, model_files
from scalekv.infinity_patch.loading.aligned_file import write_aligned
from scalekv.infinity_patch.loading.checkpoint import WeightsDamaged
from scalekv.infinity_patch.loading.convert import ConversionProgress, convert, plan_conversion
from scalekv.infinity_patch.loading.placement import Placement
from scalekv.kv.errors import UserError
from tests.hub_server import Hub

EMOJI = model_named("emoji")
Usage = namedtuple("Usage", "total used free")


def names(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def mapped_file(tensor: Tensor) -> str:
    """The file whose mapped pages a tensor is made of, "" if it is in ordinary memory."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        area, _, _, _, inode, *path = line.split(maxsplit=5)
        first, last = (int(address, 16) for address in area.split("-"))
        if first <= tensor.data_ptr() < last:
            return path[0] if int(inode) else ""
    return ""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks Linux for its mappings")
def test_a_copy_draws_the_same_pictures_and_is_mapped(tmp_path: Path) -> None:
    seen: list[ConversionProgress] = []
    plan = plan_conversion(EMOJI, tmp_path / "copy")
    file = convert(plan, seen.append)
    assert file == tmp_path / "copy" / "emoji.yaml"
    assert (seen[-1].done, seen[-1].total) == (plan.nbytes, plan.nbytes)
    copy, original = (
        load(read_preset(file), device="cpu"),
        load("emoji", device="cpu", dtype="bf16"),
    )
    assert copy.dtype == torch.bfloat16  # without being asked
    request = Request(("a red apple",), seed=4)
    pictures = [next(generate(pipeline, request)) for pipeline in (copy, original)]
    assert pictures[0].image.tobytes() == pictures[1].image.tobytes()
    differing = {k for k, v in pictures[0].settings.items() if pictures[1].settings[k] != v}
    assert differing <= {"weights"}  # which files they were, for whoever makes a picture again
    for number, (part, module) in enumerate((("transformer", copy.model), ("vae", copy.vae))):
        path = tmp_path / "copy" / f"{part}.safetensors"
        large, small = (
            [p for p in module.parameters() if (p.nbytes % 64 != 0) is odd] for odd in (False, True)
        )
        assert {mapped_file(p) for p in large} == {str(path)}
        assert sum(p.nbytes for p in small) < 2000  # they begin where they should in memory alone
        assert stat.S_IMODE(path.stat().st_mode) == 0o644
        assert copy.weights_bytes[part] == plan.parts[number].nbytes
    assert sum(p.stat().st_size for p in (tmp_path / "copy").rglob("*")) < plan.nbytes + 100_000


def test_shards_with_an_index(tmp_path: Path) -> None:
    plan = plan_conversion(EMOJI, tmp_path / "copy", shard_bytes=4 << 20, text_dtype="bf16")
    preset = read_preset(convert(plan))
    found = names(tmp_path / "copy")
    assert "transformer/model.safetensors.index.json" in found
    assert "vae/model-00001-of-00003.safetensors" in found
    for path in (tmp_path / "copy").rglob("*.safetensors"):
        assert path.stat().st_size < (4 << 20) + 100_000
    whole = load(EMOJI, device="cpu", dtype="bf16")
    copy = load(preset, device="cpu")
    for part in ("model", "vae"):
        ours, theirs = getattr(copy, part).state_dict(), getattr(whole, part).state_dict()
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_the_text_encoder_alone_in_another_precision(tmp_path: Path) -> None:
    plan = plan_conversion(EMOJI, tmp_path / "copy", text_dtype="bf16")
    preset = read_preset(convert(plan))
    stored = load_file(tmp_path / "copy" / "text_encoder" / "model.safetensors")
    assert {t.dtype for t in stored.values()} == {torch.bfloat16}
    assert sum(t.nbytes for t in stored.values()) == plan.text_bytes
    placement = Placement(text_dtype="bf16")
    texts = [load(p, device="cpu", placement=placement).text for p in (preset, EMOJI)]
    assert torch.equal(texts[0].encode(["a fox"])[0], texts[1].encode(["a fox"])[0])


def test_a_copy_is_found_by_its_folder_too(tmp_path: Path) -> None:
    convert(plan_conversion(EMOJI, tmp_path / "copy", shard_bytes=4 << 20))
    paths = model_files(EMOJI, tmp_path / "copy")
    assert paths.transformer == tmp_path / "copy" / "transformer"
    load("emoji", device="cpu", weights_dir=tmp_path / "copy")


def test_the_text_encoder_of_the_hub_is_referred_to(
    tmp_path: Path, hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from scalekv.infinity_patch.files.download import download
    from scalekv.infinity_patch.loading import convert as module

    preset = model_named("infinity-2b")
    paths = download(preset)
    emoji = model_files(EMOJI)
    swapped = type(paths)(emoji.transformer, emoji.vae, paths.text_encoder)
    monkeypatch.setattr(module, "model_files", lambda *_: swapped)
    monkeypatch.setattr(module, "check_text_encoder", lambda *_: None)
    small = type(preset)(**{**vars(EMOJI), "name": "infinity-2b", "files": preset.files})
    plan = plan_conversion(small, tmp_path / "copy")
    assert plan.text_bytes == 0
    copy = read_preset(convert(plan))
    assert not (tmp_path / "copy" / "text_encoder").exists()
    assert copy.files.text_encoder == "google/flan-t5-xl"
    assert model_files(copy).text_encoder == paths.text_encoder
    own = Path(shutil.copytree(paths.text_encoder, tmp_path / "flan-t5-xl"))
    swapped = type(paths)(emoji.transformer, emoji.vae, own)
    copy = read_preset(convert(plan_conversion(small, tmp_path / "other")))
    assert model_files(copy).text_encoder == own


def test_copies_of_copies_and_of_pytorch_files(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(BUILT_IN / "emoji", tmp_path / "own"))
    for name in ("transformer", "vae"):
        tensors = {n: t.float() for n, t in load_file(folder / f"{name}.safetensors").items()}
        if name == "transformer":
            tensors["cfg_uncond"] = tensors["cfg_uncond"][:77].clone()
        (folder / f"{name}.safetensors").unlink()
        layout = {"trainer": {"gpt_fsdp": tensors}} if name == "transformer" else {"vae": tensors}
        torch.save(layout, folder / f"{name}.pth")
    text = (BUILT_IN.parents[1] / "configs" / "models" / "emoji.yaml").read_text(encoding="utf-8")
    (folder / "mine.yaml").write_text(text.replace(".safetensors", ".pth"), encoding="utf-8")
    first = read_preset(convert(plan_conversion(read_preset(folder / "mine.yaml"), tmp_path / "1")))
    assert first.name == "mine"
    assert first.files.text_encoder == str(folder / "text_encoder")
    second = read_preset(convert(plan_conversion(first, tmp_path / "2", dtype="fp32")))
    assert second.dtype == "auto"
    states = [load(p, device="cpu").model.state_dict() for p in (first, second)]
    assert all(torch.equal(t.float(), states[1][name].float()) for name, t in states[0].items())
    assert states[1]["cfg_uncond"].shape == (512, 256)


def test_a_folder_that_is_in_use_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="is there already"):
        plan_conversion(EMOJI, tmp_path / "copy")
    with pytest.raises(UserError, match="is there already"):
        plan_conversion(EMOJI, tmp_path / "copy" / "mine.txt")
    assert names(tmp_path) == ["copy/mine.txt"]
    (tmp_path / "copy" / "mine.txt").unlink()
    convert(plan_conversion(EMOJI, tmp_path / "copy"))  # an empty folder is as good as none


def test_no_room_is_said_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 10**9, 10**6))
    with pytest.raises(UserError, match="no room for the copy"):
        plan_conversion(EMOJI, tmp_path / "new" / "copy")
    assert names(tmp_path) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_half_a_copy_is_no_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def stop(progress: ConversionProgress) -> None:
        if progress.file.startswith("vae"):
            raise error

    plan = plan_conversion(EMOJI, tmp_path / "copy")
    with pytest.raises((KeyboardInterrupt, UserError)):
        convert(plan, stop)
    assert list(tmp_path.iterdir()) == []
    convert(plan)


def test_what_a_killed_copy_left_is_cleared(tmp_path: Path) -> None:
    left = tmp_path / ".copy.999999999"
    running = tmp_path / f".copy.{os.getppid()}"
    other = tmp_path / ".copy.notes"
    for path in (left, running, other):
        path.mkdir()
    convert(plan_conversion(EMOJI, tmp_path / "copy"))
    assert sorted(tmp_path.iterdir()) == sorted([running, other, tmp_path / "copy"])


def test_numbers_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(BUILT_IN / "emoji", tmp_path / "own"))
    path = folder / "transformer.safetensors"
    tensors = {n: t.float() for n, t in load_file(path).items()}
    tensors["block_chunks.0.module.0.ffn.fc1.bias"][3] = 1e6
    save_file(tensors, path)
    plan = plan_conversion(EMOJI, tmp_path / "copy", dtype="fp16", weights_dir=folder)
    with pytest.raises(UserError, match=r"fc1\.bias has numbers that do not fit fp16"):
        convert(plan)
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dtype": "auto"}, "no dtype 'auto'"),
        ({"text_dtype": "int8"}, "no dtype 'int8'"),
        ({"shard_bytes": 1000}, "files of 1000 bytes"),
    ],
)
def test_bad_choices(tmp_path: Path, options: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        plan_conversion(EMOJI, tmp_path / "copy", **options)  # type: ignore[arg-type]


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(BUILT_IN / "emoji", tmp_path / "own"))
    shutil.copy(folder / "vae.safetensors", folder / "transformer.safetensors")
    with pytest.raises(WeightsDamaged) as error:
        plan_conversion(EMOJI, tmp_path / "copy", weights_dir=folder)
    assert error.value.rule == "this is the VAE of emoji"


def test_the_index_says_how_large_it_is(tmp_path: Path) -> None:
    plan = plan_conversion(EMOJI, tmp_path / "copy", shard_bytes=4 << 20)
    convert(plan)
    index = json.loads((tmp_path / "copy/transformer/model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == plan.parts[0].nbytes


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_products_with_a_copys_weights_are_those_of_the_originals(
    tmp_path: Path, dtype: str
) -> None:
    """A vector times a matrix depends in its last bits on where in memory the matrix begins."""
    folder = Path(shutil.copytree(BUILT_IN / "emoji", tmp_path / "own"))
    for name in ("transformer", "vae"):
        path = folder / f"{name}.safetensors"
        tensors = {n: t.float() for n, t in load_file(path).items()}
        save_file(tensors, path, {"moves the tensors": "x" * 13})
    plan = plan_conversion(EMOJI, tmp_path / "copy", dtype=dtype, weights_dir=folder)
    pipelines = [
        load("emoji", device="cpu", dtype=dtype, weights_dir=folder),
        load(read_preset(convert(plan)), device="cpu", dtype=dtype),
    ]
    parts = [[p for part in (one.model, one.vae) for p in part.parameters()] for one in pipelines]
    for original, copied in zip(*parts, strict=True):
        assert original.data_ptr() % 64 == copied.data_ptr() % 64 == 0
        assert torch.equal(original, copied)
        if original.ndim == 2:
            x = torch.linspace(-1, 1, original.shape[1], dtype=original.dtype)[None]
            both = [torch.nn.functional.linear(x, weights) for weights in (original, copied)]
            assert torch.equal(*both)


def test_an_aligned_file_is_read_by_the_library(tmp_path: Path) -> None:
    result = torch.Generator().manual_seed(0)
    tensors = {
        "odd": torch.randn(3, generator=result),
        "ünïcode": torch.randn(16, 2, generator=result).half(),
        "none": torch.empty(0, 4),
        "one": torch.tensor(1.5),
        "a": torch.randn(64, 5, generator=result).bfloat16(),
    }
    write_aligned(tmp_path / "a.safetensors", tensors)
    found = load_file(tmp_path / "a.safetensors")
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
