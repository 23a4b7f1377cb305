"""Weights in 8 bits from files: quantised while loading, copied, mapped, and refused."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from scalekv.configs.models import ModelPreset, model_named, read_preset
from scalekv.infinity_patch import Placement, Request, generate, load
from scalekv.infinity_patch.asked.settled import settle
from scalekv.infinity_patch.compute.quantised import KINDS, QuantisedLinear
from scalekv.infinity_patch.files.header import weights_in
from scalekv.infinity_patch.files.hub import BUILT_IN
from scalekv.infinity_patch.loading import fitting
from scalekv.infinity_patch.loading.checkpoint import WeightsDamaged, open_checkpoint
from scalekv.infinity_patch.loading.convert import convert, plan_conversion
from scalekv.infinity_patch.loading.fitting import skeletons
from scalekv.infinity_patch.loading.loader import Pipeline
from scalekv.infinity_patch.loading.reading import CheckpointReader, fit
from scalekv.infinity_patch.planning.footprint import weight_parts
from scalekv.infinity_patch.planning.planner import work_of
from scalekv.kv.errors import UserError
from tests.infinity_patch.loading.test_convert import mapped_file

EMOJI = model_named("emoji")
REQUEST = Request(("a red apple",), seed=4)
LAYER = "block_chunks.0.module.0.ffn.fc1"


def in_8_bits(kind: str = "int8", model: str | ModelPreset = "emoji", **where: Any) -> Pipeline:
    return load(model, device="cpu", placement=Placement(weights=kind), **where)


def copied(folder: Path, kind: str = "int8") -> ModelPreset:
    return read_preset(convert(plan_conversion(EMOJI, folder, weights=kind)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
def test_held_bytes_are_planned_bytes(kind: str, dtype: str) -> None:
    pipeline = in_8_bits(kind, dtype=dtype)
    planned = weight_parts(work_of(settle(REQUEST, EMOJI, "cpu", dtype), Placement(weights=kind)))
    assert pipeline.weights_bytes == planned
    kinds = {p.dtype for n, p in pipeline.model.named_parameters() if n == f"{LAYER}.weight"}
    assert kinds == {KINDS[kind]}
    assert kind in pipeline.computing


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_draws_what_quantising_while_loading_draws(tmp_path: Path, kind: str) -> None:
    preset = copied(tmp_path / "copy", kind)
    assert weights_in(tmp_path / "copy" / "transformer.safetensors") == kind
    copy, loaded = load(preset, device="cpu"), in_8_bits(kind, dtype="bf16")
    assert (copy.weights, copy.dtype, copy.weights_bytes) == (
        kind,
        torch.bfloat16,
        loaded.weights_bytes,
    )
    first, second = (next(generate(one, REQUEST)) for one in (copy, loaded))
    assert first.image.tobytes() == second.image.tobytes()
    assert first.settings["weights_dtype"] == second.settings["weights_dtype"] == kind
    if kind == "int8":
        layers = [m for m in copy.model.modules() if isinstance(m, QuantisedLinear)]
        files = {mapped_file(layer.weight) for layer in layers}
        assert files == {str(tmp_path / "copy" / "transformer.safetensors")}
    elsewhere = load("emoji", device="cpu", weights_dir=tmp_path / "copy")
    assert elsewhere.weights == kind


def test_shards_and_a_copy_of_a_copy(tmp_path: Path) -> None:
    plan = plan_conversion(EMOJI, tmp_path / "1", weights="int8", shard_bytes=1 << 20)
    first = read_preset(convert(plan))
    assert weights_in(tmp_path / "1" / "transformer") == "int8"
    second = read_preset(convert(plan_conversion(first, tmp_path / "2", dtype="fp32")))
    states = [load(p, device="cpu").model.state_dict() for p in (first, second)]
    assert all(torch.equal(t.float(), states[1][n].float()) for n, t in states[0].items())
    with pytest.raises(UserError, match="weights in int8, not in bf16"):
        plan_conversion(first, tmp_path / "3", weights="bf16")


@pytest.mark.parametrize(
    ("asked", "dtype", "words"),
    [
        ("int4", "bf16", "no weights in 'int4'"),
        ("bf16", "fp32", "weights in bf16, and products in fp32"),
    ],
)
def test_what_cannot_be_held(asked: str, dtype: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        in_8_bits(asked, dtype=dtype)


def test_a_copy_stays_as_it_is(tmp_path: Path) -> None:
    preset = copied(tmp_path / "copy")
    with pytest.raises(UserError, match="weights in int8, not in fp8"):
        in_8_bits("fp8", preset)


def changed(folder: Path, name: str, tensor: Tensor | None) -> Path:
    """Files of the built-in model with a tensor replaced, or without it."""
    file = folder / "transformer.safetensors"
    tensors = load_file(file)
    del tensors[name]
    if tensor is not None:
        tensors[name] = tensor
    file.unlink()
    save_file(tensors, file)
    return folder


ROWS, WIDTH = 1024, 256
FUZZ: list[tuple[str, Tensor | None, str]] = [
    (f"{LAYER}.weight_scale", None, "weight_scale is missing"),
    (f"{LAYER}.weight_scale", torch.full((ROWS,), torch.nan), "scales that are none"),
    (f"{LAYER}.weight_scale", torch.full((ROWS,), torch.inf), "scales that are none"),
    (f"{LAYER}.weight_scale", -torch.ones(ROWS), "scales that are none"),
    (f"{LAYER}.weight_scale", torch.zeros(ROWS), "scales that are none"),
    (f"{LAYER}.weight_scale", torch.ones(ROWS + 1), "has shape"),
    (f"{LAYER}.weight_scale", torch.ones(ROWS, dtype=torch.int32), "I32 numbers"),
    (f"{LAYER}.weight", None, "weight is missing"),
    (f"{LAYER}.weight", torch.ones(ROWS, WIDTH), "F32 numbers, others int8 ones"),
    (f"{LAYER}.weight", torch.ones(ROWS, WIDTH, dtype=torch.uint8), "U8 numbers"),
    (f"{LAYER}.weight", torch.ones(ROWS, WIDTH - 1, dtype=torch.int8), "has shape"),
]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built-in model's files with weights in int8."""
    folder = tmp_path_factory.mktemp("files") / "copy"
    convert(plan_conversion(EMOJI, folder, weights="int8"))
    return folder


def read(folder: Path) -> None:
    """What loading does with the file of the transformer, as far as damage can be seen."""
    transformer, _ = skeletons(EMOJI)
    with open_checkpoint(folder / "transformer.safetensors") as file:
        fit(transformer, file, EMOJI, "auto", torch.bfloat16)
        reader = CheckpointReader(file, transformer, torch.bfloat16)
        for name, _ in transformer.named_parameters():
            reader.read(name, torch.device("cpu"))


@pytest.fixture
def one_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose a foreign file is is told among few."""
    monkeypatch.setattr(fitting, "list_models", lambda: ["emoji"])


@pytest.mark.usefixtures("one_model")
@pytest.mark.parametrize(("name", "tensor", "words"), FUZZ)
def test_what_does_not_belong_together_is_refused(
    files: Path, tmp_path: Path, name: str, tensor: Tensor | None, words: str
) -> None:
    folder = changed(Path(shutil.copytree(files, tmp_path / "own")), name, tensor)
    with pytest.raises(WeightsDamaged) as error:
        read(folder)
    assert words in f"{error.value.what} {error.value.rule}"


@pytest.mark.usefixtures("one_model")
def test_damaged_headers_are_refused_or_used(files: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(files, tmp_path / "own"))
    file = folder / "transformer.safetensors"
    whole = file.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    refused = 0
    for seed in range(25):
        chance, data = random.Random(seed), bytearray(whole)
        for _ in range(chance.choice((1, 3, 9))):
            data[chance.randrange(header)] = chance.randrange(256)
        if chance.random() < 0.2:
            del data[chance.randrange(len(data)) :]
        file.write_bytes(data)
        weights_in(file)  # which plans ask, and which says nothing of damage
        try:
            read(folder)
        except WeightsDamaged:
            refused += 1
    assert refused > 12


@pytest.mark.usefixtures("one_model")
def test_numbers_without_scales_are_no_checkpoint(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(BUILT_IN / "emoji", tmp_path / "own"))
    whole = load_file(folder / "transformer.safetensors")[f"{LAYER}.weight"]
    changed(folder, f"{LAYER}.weight", whole.to(torch.int8))
    with pytest.raises(WeightsDamaged, match="I8 numbers"):
        read(folder)
