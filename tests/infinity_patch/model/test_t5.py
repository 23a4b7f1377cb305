"""The text encoder is transformers', read by our reader: the same bits in every precision."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import PreTrainedTokenizerFast, T5EncoderModel

from scalekv.configs.models import model_named
from scalekv.infinity_patch.asked.request import Request
from scalekv.infinity_patch.asked.settled import settle
from scalekv.infinity_patch.compute.exact import exact_float32
from scalekv.infinity_patch.compute.quantised import QuantisedLinear
from scalekv.infinity_patch.files.hub import BUILT_IN
from scalekv.infinity_patch.files.text_config import read_text_config
from scalekv.infinity_patch.loading.placement import Placement
from scalekv.infinity_patch.loading.text_files import read_text_encoder
from scalekv.infinity_patch.model.parameters import text_encoder, text_linear_layers
from scalekv.infinity_patch.model.t5 import shapes_of_t5, t5_encoder
from scalekv.infinity_patch.model.text import TextPrecision
from scalekv.infinity_patch.model.tokens import read_tokenizer
from scalekv.infinity_patch.planning.footprint import footprint
from scalekv.infinity_patch.planning.planner import work_of
from scalekv.kv.errors import UserError

FOLDER = BUILT_IN / "emoji" / "text_encoder"
CPU = torch.device("cpu")
PROMPTS = (
    "a red apple",
    "x",
    "a very long " * 300,  # cut
    "Ünïcode 😀 <extra_id_0> </s> <pad>  two  spaces\n",
    "word " * 60,
)
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.fixture
def wide(tmp_path: Path) -> Path:
    """An encoder with heads of another width than its model's, large sums and its own distances."""
    config = json.loads((FOLDER / "config.json").read_text())
    config |= {
        **{"d_model": 128, "d_kv": 16, "num_heads": 3, "num_layers": 3, "d_ff": 320},
        **{"relative_attention_num_buckets": 20, "relative_attention_max_distance": 50},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "tokenizer.json").write_bytes((FOLDER / "tokenizer.json").read_bytes())
    torch.manual_seed(1)
    encoder = t5_encoder(read_text_config(tmp_path))
    tensors = {name: tensor.data * 3 for name, tensor in encoder.named_parameters()}
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    return tmp_path


def expected(folder: Path, dtype: torch.dtype) -> list[torch.Tensor]:
    counted = read_tokenizer(FOLDER / "tokenizer.json")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=counted)
    encoder = T5EncoderModel.from_pretrained(folder, dtype=dtype).eval()
    found = []
    for prompt in PROMPTS:
        batch = tokenizer(prompt, return_tensors="pt", truncation=True, max_length=512)
        with torch.inference_mode(), exact_float32():
            found.append(encoder(**batch.data).last_hidden_state[0].float())
    return found


@pytest.mark.parametrize("dtype", DTYPES)
def test_bits_are_those_of_transformers(wide: Path, dtype: torch.dtype) -> None:
    for folder in (FOLDER, wide):
        found = read_text_encoder(folder, TextPrecision(CPU, dtype)).encode(PROMPTS)
        assert all(map(torch.equal, found, expected(folder, dtype)))
        assert all(one.isfinite().all() for one in found)


@pytest.mark.parametrize("dtype", DTYPES)
def test_bytes_are_known_before_they_are_read(dtype: torch.dtype) -> None:
    text = read_text_encoder(FOLDER, TextPrecision(CPU, dtype))
    assert (text.model, text.bytes_on(CPU)) == (None, 0)
    held = sum(p.nbytes for p in text.load().parameters())
    assert text.nbytes == text.bytes_on(CPU) == held
    text.free()
    assert text.bytes_on(CPU) == 0


@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_in_8_bits(dtype: torch.dtype) -> None:
    text = read_text_encoder(FOLDER, TextPrecision(CPU, dtype, in_8_bits=True))
    model = text.load()
    kinds = {type(m) for m in model.modules() if isinstance(m, torch.nn.Linear)}
    assert kinds == {QuantisedLinear}
    assert text.nbytes == sum(p.nbytes for p in model.parameters())
    spec = model_named("emoji").text
    assert spec is not None
    linear, rows = text_linear_layers(spec, 256)
    assert (
        text.nbytes == linear + 4 * rows + (sum(text_encoder(spec, 256)) - linear) * dtype.itemsize
    )
    exact = expected(FOLDER, torch.float32)
    for ours, theirs in zip(text.encode(PROMPTS), exact, strict=True):
        assert torch.cosine_similarity(ours, theirs, dim=-1).min() > 0.99
        assert not torch.equal(ours, theirs)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_plans_count_8_bits(device: str) -> None:
    settled = settle(Request(("a",)), model_named("infinity-2b"), device, "bf16")
    parts = footprint(work_of(settled, Placement(text_dtype="int8"))).stages["load"]
    linear, rows = 24 * (4 * 2048**2 + 3 * 2048 * 5120), 24 * (5 * 2048 + 2 * 5120)
    element = 2 if device == "cuda" else 4
    others = 1_223_527_424 - linear
    assert parts["text_encoder"] == linear + 4 * rows + others * element


def test_shapes_are_those_of_the_module(wide: Path) -> None:
    for folder in (FOLDER, wide):
        config = read_text_config(folder)
        module = t5_encoder(config)
        assert shapes_of_t5(config) == {n: tuple(p.shape) for n, p in module.named_parameters()}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"feed_forward_proj": "relu"}, "feed-forward is 'relu'"),
        ({"feed_forward_proj": None}, "feed-forward is None"),
        ({"num_layers": 0}, "0 is not at least 1"),
        ({"d_ff": None}, "no configuration of a T5 encoder"),
    ],
)
def test_other_encoders_are_refused(tmp_path: Path, change: dict[str, object], words: str) -> None:
    content = json.loads((FOLDER / "config.json").read_text()) | change
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(UserError) as error:
        read_text_config(tmp_path)
    assert words in str(error.value) + (error.value.rule or "")


@pytest.mark.parametrize("content", ["", "[]", "{", '{"d_model": 1e999}'])
def test_what_is_no_configuration_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match="cannot be loaded"):
        read_text_config(tmp_path)
