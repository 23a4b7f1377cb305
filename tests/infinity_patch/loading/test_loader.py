"""Loading: whole and fitting files only, with a message for each other kind."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from scalekv.configs.models import model_named
from scalekv.infinity_patch.asked.check import check
from scalekv.infinity_patch.asked.request import Request
from scalekv.infinity_patch.files.hub import BUILT_IN, WeightsMissing
from scalekv.infinity_patch.loading import loader
from scalekv.infinity_patch.loading.checkpoint import Checkpoint, TensorEntry, WeightsDamaged
from scalekv.infinity_patch.loading.fitting import (
    check_fits,
    shapes_of,
    skeletons,
    unconditional_rows,
)
from scalekv.infinity_patch.loading.loader import load
from scalekv.infinity_patch.loading.placement import Placement
from scalekv.kv.errors import UserError

KEYS = Path(__file__).parents[2] / "golden" / "keys"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the built-in model's files."""
    return Path(shutil.copytree(BUILT_IN / "emoji", tmp_path / "emoji"))


def test_weights_are_counted_and_kept_in_the_asked_dtype(folder: Path) -> None:
    pipeline = load("emoji", device="cpu", dtype="bf16", weights_dir=folder)
    assert pipeline.model.compute_dtype == torch.bfloat16
    assert pipeline.model.word_embed.weight.dtype == torch.float32
    encoder, decoder = (
        sum(p.numel() for p in part.parameters())
        for part in (pipeline.vae.encoder, pipeline.vae.decoder)
    )
    assert pipeline.weights_bytes["vae"] == 4 * encoder + 2 * decoder


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
    assert error.value.rule == "this is the VAE of emoji"
    assert "its own transformer, transformer.safetensors" in error.value.fix


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


@pytest.mark.parametrize(("fast", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_auto_takes_bf16_where_the_processor_is_fast_at_it(
    fast: bool, dtype: torch.dtype, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "fast_bf16", lambda: fast)
    assert load("emoji", device="cpu", weights_dir=folder).dtype == dtype


@pytest.mark.parametrize(("option", "value"), [("device", "toaster"), ("dtype", "fp7")])
def test_unknown_devices_and_dtypes_are_refused(option: str, value: str) -> None:
    with pytest.raises(UserError, match=value):
        load("emoji", **{option: value})  # type: ignore[arg-type]


def test_a_tensor_too_many_is_refused(folder: Path) -> None:
    path = folder / "vae.safetensors"
    save_file(load_file(path) | {"decoder.up.9.conv.weight": torch.ones(1)}, path)
    with pytest.raises(WeightsDamaged, match=r"up\.9\.conv\.weight is in the file"):
        load("emoji", weights_dir=folder)


def test_nothing_is_allocated_before_all_files_are_checked(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder / "vae.safetensors"
    save_file({"a": torch.ones(1)}, path)

    def read(*_: object) -> None:
        pytest.fail("a tensor was read before the VAE was refused")

    monkeypatch.setattr(Checkpoint, "take", read)
    with pytest.raises(WeightsDamaged, match="is missing"):
        load("emoji", weights_dir=folder)


@pytest.mark.parametrize("rows", [1, 300, 512, 700])
def test_more_or_fewer_unconditional_rows(folder: Path, rows: int) -> None:
    path = folder / "transformer.safetensors"
    tensors = load_file(path)
    width = tensors["cfg_uncond"].shape[1]
    tensors["cfg_uncond"] = torch.arange(rows * width).reshape(rows, width) / width
    save_file(tensors, path)
    got = load("emoji", weights_dir=folder).model.cfg_uncond
    assert got.shape == (512, width)
    kept = min(rows, 512)
    assert torch.equal(got[:kept], tensors["cfg_uncond"][:kept])
    if rows < 512:
        initial = unconditional_rows(torch.empty(0, width), 512)
        assert torch.equal(got[rows:], initial[rows:])
        # truncated normal of 1.2 / sqrt(Ct), as the published code starts these rows
        assert initial.std() == pytest.approx(1.2 / width**0.5, rel=0.25)
        assert initial.abs().max() <= 2 / width**0.5


def test_buffers_that_are_not_needed_are_ignored(folder: Path) -> None:
    path = folder / "transformer.safetensors"
    extra = {
        "lvl_1L": torch.zeros(1, 9, dtype=torch.int64),
        "attn_bias_for_masking": torch.zeros(1, 1, 9, 9),
        "block_chunks.0.module.0.sa.zero_k_bias": torch.zeros(256),
    }
    save_file(load_file(path) | extra, path)
    load("emoji", weights_dir=folder)


@pytest.mark.parametrize("name", ["infinity-2b", "infinity-8b"])
def test_a_published_checkpoint_fits_its_own_preset_alone(name: str) -> None:
    parts = json.loads((KEYS / f"{name}.json").read_text())
    other = model_named("infinity-125m")
    for part, module in zip(("transformer", "vae"), skeletons(model_named(name)), strict=True):
        entries = {n: TensorEntry(tuple(shape), "F32") for n, shape in parts[part].items()}
        file = Checkpoint(Path("own.pth"), entries, lambda _: pytest.fail("nothing is read"))
        label = "VAE" if part == "vae" else part
        check_fits(module, file, model_named(name), label)
        with pytest.raises(WeightsDamaged) as error:
            check_fits(skeletons(other)[part == "vae"], file, other, label)
        assert f"this is the {label} of {name}" in error.value.rule


def test_a_transformer_of_another_size_is_described() -> None:
    preset = model_named("infinity-2b")
    transformer, _ = skeletons(preset)
    spec = replace(preset.transformer, depth=24, width=1024, heads=8)
    odd, _ = skeletons(replace(preset, transformer=spec))
    entries = {name: TensorEntry(shape, "F32") for name, shape in shapes_of(odd).items()}
    file = Checkpoint(Path("own.pth"), entries, lambda _: torch.zeros(0))
    with pytest.raises(WeightsDamaged) as error:
        check_fits(transformer, file, preset, "transformer")
    assert (
        error.value.rule == "this is a transformer of 24 layers of width 1024, which no preset has"
    )


def test_numbers_that_are_no_weights_are_refused(folder: Path) -> None:
    path = folder / "vae.safetensors"
    tensors = load_file(path)
    save_file({name: t.to(torch.int32) for name, t in tensors.items()}, path)
    with pytest.raises(WeightsDamaged, match="holds I32 numbers") as error:
        load("emoji", weights_dir=folder)
    assert "this is the VAE of emoji, with numbers of another kind" in error.value.rule


def test_a_text_encoder_of_another_width_is_refused(folder: Path) -> None:
    path = folder / "text_encoder" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"d_model": 2048}))
    with pytest.raises(UserError, match="width 2048, emoji reads 256"):
        load("emoji", weights_dir=folder)


def test_a_text_encoder_without_a_tensor_is_refused(folder: Path) -> None:
    path = folder / "text_encoder" / "model.safetensors"
    tensors = load_file(path)
    del tensors["encoder.final_layer_norm.weight"]
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(UserError, match="text encoder") as error:
        load("emoji", weights_dir=folder)
    assert "final_layer_norm.weight is missing" in error.value.rule


def test_text_encoder_by_choice(folder: Path) -> None:
    kept = load("emoji", weights_dir=folder).text
    freed = load("emoji", weights_dir=folder, placement=Placement(keep_text_encoder=False)).text
    assert freed.nbytes == kept.nbytes
    (expected,) = kept.encode(["a red apple"])
    (features,) = freed.encode(["a red apple"])
    assert torch.equal(features, expected)
    for encoder in (kept, freed):
        encoder.rest()
    assert kept.model is not None
    assert freed.model is None
    (again,) = freed.encode(["a red apple"])
    assert again is features  # known: nothing is read
    assert freed.model is None
    (fox,) = freed.encode(["a fox"])  # read again
    assert torch.equal(fox, kept.encode(["a fox"])[0])
    assert freed.model is not None


def test_text_encoder_in_bf16(folder: Path) -> None:
    pipeline = load("emoji", weights_dir=folder, placement=Placement(text_dtype="bf16"))
    (features,) = pipeline.text.encode(["a red apple"])
    assert features.dtype == torch.float32
    (exact,) = load("emoji", weights_dir=folder).text.encode(["a red apple"])
    assert not torch.equal(features, exact)
    torch.testing.assert_close(features, exact, atol=0.1, rtol=0.1)


@pytest.mark.parametrize(
    ("placement", "words"),
    [
        (Placement(text_dtype="fp16"), "fp16 on a CPU"),
        (Placement(text_dtype="fp7"), "fp7"),
        (Placement(text_device="toaster"), "toaster"),
        (Placement(offload=True), "kept off a device"),
    ],
)
def test_placements_that_cannot_be(placement: Placement, words: str) -> None:
    with pytest.raises(UserError, match=words):
        load("emoji", device="cpu", placement=placement)


def test_a_model_saved_while_wrapped_loads_and_says_so_in_one_line(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = folder / "transformer.safetensors"
    save_file({f"module.{name}": tensor for name, tensor in load_file(path).items()}, path)
    wrapped = load("emoji", device="cpu", weights_dir=folder)
    assert [r.getMessage().partition(":")[0] for r in caplog.records] == ["transformer.safetensors"]
    own = load("emoji", device="cpu").model.state_dict()
    assert all(torch.equal(t, own[n]) for n, t in wrapped.model.state_dict().items())
    assert len(caplog.records) == 1
