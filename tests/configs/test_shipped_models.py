"""The presets that ship, and how a preset file that breaks a rule is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from scalekv.configs.models import FOLDER, list_models, model_named, read_preset
from scalekv.kv.errors import UserError

# arXiv 2412.04431 and the published checkpoints: depth, width, heads, chunks, bits of a token,
# pixels a token, pixel class.
SIZES = {
    "infinity-125m": (12, 768, 8, 4, 16, 16, "0.06M"),
    "infinity-2b": (32, 2048, 16, 8, 32, 16, "1M"),
    "infinity-8b": (40, 3584, 28, 8, 56, 16, "1M"),
    "infinity-8b-512": (40, 3584, 28, 8, 56, 16, "0.25M"),
    "emoji": (8, 256, 4, 4, 16, 8, "0.06M"),
}


def test_the_list() -> None:
    assert list_models()[0] == "emoji"
    assert set(SIZES) <= set(list_models())


@pytest.mark.parametrize("name", SIZES)
def test_sizes(name: str) -> None:
    preset = model_named(name)
    spec, tokenizer = preset.transformer, preset.tokenizer
    pixels_a_token = tokenizer.stride * (2 if tokenizer.patchify else 1)
    found = (spec.depth, spec.width, spec.heads, spec.chunks, tokenizer.token_bits)
    assert (*found, pixels_a_token, preset.pixels) == SIZES[name]
    assert tokenizer.stride == 2 ** (len(tokenizer.ch_mult) - 1)
    assert preset.name == name
    assert preset.built_in == (name == "emoji")


def test_transformers_and_tokenizers_are_paired() -> None:
    pairs = {n: model_named(n).files.vae for n in SIZES if not model_named(n).built_in}
    assert pairs == {
        "infinity-125m": "infinity_vae_d16.pth",
        "infinity-2b": "infinity_vae_d32reg.pth",
        "infinity-8b": "infinity_vae_d56_f8_14_patchify.pth",
        "infinity-8b-512": "infinity_vae_d56_f8_14_patchify.pth",
    }
    files = [model_named(n).files.transformer for n in SIZES]
    assert len(set(files)) == len(files)


def test_published_sampling() -> None:
    published = {n: model_named(n).sampling for n in SIZES if n != "emoji"}
    assert {n: (s.cfg, s.tau, s.top_p, s.cfg_layer) for n, s in published.items()} == {
        "infinity-125m": (4, 0.5, 0.97, 0),
        "infinity-2b": (3, 0.5, 0.97, 0),
        "infinity-8b": (3, 1, 0.97, 0),
        "infinity-8b-512": (3, 1, 0.97, 0),
    }


@pytest.mark.parametrize("name", ["infinity-2", "", "../models/emoji", "Emoji"])
def test_an_unknown_name(name: str) -> None:
    with pytest.raises(UserError) as caught:
        model_named(name, "SCALEKV_MODEL")
    assert caught.value.where == "SCALEKV_MODEL"
    assert "infinity-8b-512" in caught.value.rule
    assert "emoji" in caught.value.rule


GOOD = (FOLDER / "emoji.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("depth: 8", "dpeth: 8", ["key transformer", "unknown key 'dpeth'", "did you mean depth"]),
        ("depth: 8, ", "", ["key transformer", "depth is missing"]),
        ("depth: 8", "depth: eight", ["key transformer, key depth", "whole number"]),
        ("depth: 8", "depth: 0", ["key depth", "at least 1"]),
        ("depth: 8", "depth: 9", ["chunks"]),
        ("heads: 4", "heads: 3", ["heads"]),
        ("patchify: false", "patchify: 0", ["patchify", "true or false"]),
        ("[1, 2, 4, 4]", "4", ["ch_mult", "list of whole numbers"]),
        ("[1, 2, 4, 4]", "[1, x]", ["ch_mult", "whole number"]),
        ("cfg: 3.0", "cfg: strong", ["key sampling, key cfg", "number"]),
        ("summary:", "sumary:", ["unknown key 'sumary'", "did you mean summary"]),
        ("pixels: 0.06M", "pixels: 0.06M\npixels_too: [7M]", ["key pixels_too", "class '7M'"]),
        (GOOD, "- no\n- mapping\n", ["no mapping"]),
        (GOOD, "a: [", ["YAML"]),
    ],
)
def test_bad_files(tmp_path: Path, old: str, new: str, words: list[str]) -> None:
    file = tmp_path / "mine.yaml"
    assert old in GOOD
    file.write_text(GOOD.replace(old, new))
    with pytest.raises(UserError) as caught:
        read_preset(file)
    for word in [str(file), *words]:
        assert word in str(caught.value)


def test_a_good_file_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(GOOD.replace("cfg: 3.0", "cfg: 4"))
    preset = read_preset(file)
    assert (preset.name, preset.sampling.cfg) == ("mine", 4.0)
    assert isinstance(preset.sampling.cfg, float)
    with pytest.raises(UserError, match="cannot read"):
        read_preset(tmp_path / "none.yaml")
