"""Text encoders that would give other features than they were trained to are refused; the one
tokenizer.json counts and encodes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from scalekv.configs.models import model_named
from scalekv.infinity_patch.files.hub import BUILT_IN
from scalekv.infinity_patch.loading.text_files import check_text_encoder, read_text_encoder
from scalekv.infinity_patch.model.text import TextPrecision
from scalekv.kv.errors import UserError

EMOJI = model_named("emoji")
FP32 = TextPrecision(torch.device("cpu"), torch.float32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the built-in model's text encoder."""
    return Path(shutil.copytree(BUILT_IN / "emoji" / "text_encoder", tmp_path / "text_encoder"))


def changed(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def configured(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def scale(tensors: dict[str, torch.Tensor]) -> None:
    for name in [n for n, t in tensors.items() if t.ndim == 2 and ".layer." in n]:
        factor = tensors[name].float().abs().max() / 448
        tensors[name] = (tensors[name].float() / factor).to(torch.float8_e4m3fn)
        tensors[name.replace("weight", "scale_weight")] = factor.reshape(1)


def test_scaled_numbers_are_refused_by_the_name_of_a_factor(folder: Path) -> None:
    changed(folder, scale)
    with pytest.raises(UserError, match=r"scale_weight is in the file and not in the encoder"):
        check_text_encoder(folder, EMOJI)


@pytest.mark.parametrize(
    ("layers", "words"),
    [(1, r"encoder\.block\.1\.\S+ is in the file"), (3, r"encoder\.block\.2\.\S+ is missing")],
)
def test_other_numbers_of_layers_are_refused(folder: Path, layers: int, words: str) -> None:
    configured(folder, num_layers=layers)
    with pytest.raises(UserError, match=words):
        check_text_encoder(folder, EMOJI)


def test_other_shapes_and_whole_numbers_are_refused(folder: Path) -> None:
    configured(folder, d_ff=256)
    with pytest.raises(UserError, match=r"has shape"):
        check_text_encoder(folder, EMOJI)
    configured(folder, d_ff=512)
    name = "encoder.final_layer_norm.weight"
    changed(folder, lambda tensors: tensors.update({name: tensors[name].to(torch.int8)}))
    with pytest.raises(UserError, match=r"holds I8 numbers"):
        check_text_encoder(folder, EMOJI)


def test_a_whole_t5_gives_its_encoder(folder: Path) -> None:
    more = {
        "decoder.final_layer_norm.weight": torch.ones(256),
        "lm_head.weight": torch.ones(8, 256),
    }
    changed(folder, lambda tensors: tensors.update(more))
    check_text_encoder(folder, EMOJI)


def test_tokens_beyond_the_vocabulary_are_refused(folder: Path) -> None:
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["added_tokens"].append({**content["added_tokens"][0], "id": 2048, "content": "<new>"})
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(UserError, match="the token 2048, the text encoder knows those below 2048"):
        check_text_encoder(folder, EMOJI)


@pytest.mark.parametrize("config", [None, {"tokenizer_class": "T5Tokenizer"}])
def test_what_counts_a_prompt_encodes_it(folder: Path, config: dict[str, str] | None) -> None:
    (expected,) = read_text_encoder(folder, FP32).encode(["A Red Apple"])
    file = folder / "tokenizer_config.json"
    file.unlink()
    if config is not None:
        file.write_text(json.dumps(config))
    other = read_text_encoder(folder, FP32)
    assert torch.equal(other.encode(["A Red Apple"])[0], expected)
