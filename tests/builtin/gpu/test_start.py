"""The shipped weights fit the next model, which is small enough."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from scalekv.configs.models import model_named
from scalekv.infinity_patch.files.hub import BUILT_IN
from scalekv.infinity_patch.model import parameters
from scalekv.infinity_patch.model.transformer import Infinity
from scripts.builtin.gpu.start import LEAST_MISSED, SCALES, fitted, next_preset, start

SHIPPED = BUILT_IN / "emoji"


def test_the_next_model_has_at_most_fourteen_million_weights() -> None:
    preset = next_preset()
    assert preset.text is not None
    spec = preset.transformer
    count = parameters.blocks(spec) + parameters.around_blocks(spec, preset.tokenizer.token_bits)
    count += sum(parameters.autoencoder(preset.tokenizer))
    count += sum(parameters.text_encoder(preset.text, spec.text_width))
    assert count <= 14_000_000
    assert preset.pixels == "0.25M"


def test_the_shipped_weights_load_into_it() -> None:
    preset = next_preset()
    found = start(SHIPPED, preset.transformer)
    model = Infinity(preset.transformer, preset.tokenizer.token_bits)
    model.load_state_dict(found.transformer)
    assert found.vae
    assert found.text["encoder.embed_tokens.weight"].shape[0] == preset.text.vocabulary  # type: ignore[union-attr]


def test_one_block_goes_and_the_others_keep_their_order() -> None:
    old = model_named("emoji").transformer
    spec = next_preset().transformer
    if old.depth == spec.depth:
        old = spec
    tensors = {
        f"block_chunks.{i // 2}.module.{i % 2}.ada_gss": torch.full((1,), float(i))
        for i in range(spec.depth + 1)
    }
    tensors |= {"cfg_uncond": torch.arange(512.0)[:, None], "lvl_embed.weight": torch.arange(15.0)}
    kept = fitted(tensors, spec, scales=7)
    order = [float(kept[f"block_chunks.{i}.module.0.ada_gss"]) for i in range(spec.depth)]
    assert order == [i for i in range(spec.depth + 1) if i != LEAST_MISSED]
    assert len(kept["cfg_uncond"]) == spec.text_max
    assert kept["lvl_embed.weight"].tolist() == [0, 1, 2, 3, 4, 5, 6, *[6] * 8]


def test_weights_of_a_run_before_are_taken_as_they_are(tmp_path: Path) -> None:
    spec = next_preset().transformer
    first = start(SHIPPED, spec)
    (tmp_path / "text_encoder").mkdir()
    save_file(first.transformer, tmp_path / "transformer.safetensors", metadata={SCALES: "10"})
    for name in ("vae.safetensors", "text_encoder/model.safetensors"):
        save_file(load_file(SHIPPED / name), tmp_path / name)
    again = start(tmp_path, spec)
    assert again.scales == 10
    assert again.transformer.keys() == first.transformer.keys()
    for name, tensor in first.transformer.items():
        if name != "lvl_embed.weight":
            assert torch.equal(again.transformer[name], tensor), name
