"""Counts of weights by arithmetic are those of the modules' own tensors."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import T5Config, T5EncoderModel

from scalekv.configs.models import list_models, model_named
from scalekv.configs.spec import TextSpec
from scalekv.infinity_patch.files.hub import BUILT_IN
from scalekv.infinity_patch.loading.fitting import skeletons
from scalekv.infinity_patch.model import parameters

FOLDER = BUILT_IN / "emoji" / "text_encoder"


@pytest.mark.parametrize("name", list_models())
def test_transformer_and_autoencoder(name: str) -> None:
    preset = model_named(name)
    transformer, vae = skeletons(preset)
    inside = sum(p.numel() for p in transformer.block_chunks.parameters())
    around = sum(p.numel() for p in transformer.parameters()) - inside
    spec, tokenizer = preset.transformer, preset.tokenizer
    assert parameters.blocks(spec) == inside
    assert parameters.around_blocks(spec, tokenizer.token_bits) == around
    assert parameters.autoencoder(tokenizer) == tuple(
        sum(p.numel() for p in half.parameters()) for half in (vae.encoder, vae.decoder)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["emoji", "infinity-2b"])
def test_text_encoder(name: str, dtype: torch.dtype) -> None:
    preset = model_named(name)
    spec, width = preset.text, preset.transformer.text_width
    assert spec is not None
    config = T5Config(
        d_model=width,
        d_kv=spec.head_width,
        d_ff=spec.hidden,
        num_layers=spec.layers,
        num_heads=spec.heads,
        vocab_size=spec.vocabulary,
        feed_forward_proj="gated-gelu",
    )
    with torch.device("meta"):
        tensors = dict(T5EncoderModel(config).named_parameters())
    rest, kept = parameters.text_encoder(spec, width)
    in_float32 = [n for n in tensors if dtype == torch.float16 and ".wo." in n]
    assert rest + kept == sum(p.numel() for p in tensors.values())
    if in_float32:
        assert kept == sum(tensors[n].numel() for n in in_float32)


def test_the_built_in_text_encoder_is_the_one_described() -> None:
    stored = json.loads((FOLDER / "config.json").read_text())
    names = ("num_layers", "num_heads", "d_kv", "d_ff", "vocab_size")
    assert model_named("emoji").text == TextSpec(*(stored[name] for name in names))
    encoder = T5EncoderModel.from_pretrained(FOLDER, dtype=torch.float16)
    found = {p.dtype: 0 for p in encoder.parameters()}
    for p in encoder.parameters():
        found[p.dtype] += p.numel()
    spec = model_named("emoji").text
    assert spec is not None
    rest, kept = parameters.text_encoder(spec, 256)
    assert found == {torch.float16: rest, torch.float32: kept}


def test_published_text_encoder_has_its_known_size() -> None:
    spec = model_named("infinity-2b").text
    assert spec is not None
    assert sum(parameters.text_encoder(spec, 2048)) == 1_223_527_424  # FLAN-T5 XL's encoder
