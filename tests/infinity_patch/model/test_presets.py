"""The presets that ship: architectures under the published tensor names, parts that fit."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from scalekv.configs.models import list_models, model_named
from scalekv.configs.spec import PIXELS
from scalekv.infinity_patch.model.autoencoder import Autoencoder
from scalekv.infinity_patch.model.transformer import Infinity
from scalekv.infinity_patch.schedules import PIXEL_CLASSES, full_schedule

KEYS = Path(__file__).parents[2] / "golden" / "keys"
BUFFERS = {"zero_k_bias", "lvl_1L", "attn_bias_for_masking", "mask"}
"""Last parts of the names of constant buffers, which are not computed with here."""

PUBLISHED = ["infinity-125m", "infinity-2b", "infinity-8b", "infinity-8b-512"]
UNRELEASED = {  # depth, width, heads (arXiv 2412.04431 and the published code)
    "infinity-layer16": (16, 1152, 12),
    "infinity-layer24": (24, 1536, 16),
    "infinity-layer32": (32, 2080, 20),
    "infinity-layer40": (40, 2688, 24),
    "infinity-layer48": (48, 3360, 28),
    "infinity-20b": (58, 4608, 36),
}


def published_shapes(name: str) -> dict[str, dict[str, list[int]]]:
    """Shapes by tensor name of the parts of a checkpoint, constant buffers aside."""
    file = KEYS / f"{name.removesuffix('-512')}.json"  # both 8B models are the same architecture
    parts: dict[str, dict[str, list[int]]] = json.loads(file.read_text())
    return {
        part: {n: s for n, s in shapes.items() if n.rsplit(".", 1)[-1] not in BUFFERS}
        for part, shapes in parts.items()
    }


@pytest.mark.parametrize("name", PUBLISHED)
def test_names_and_shapes_are_the_published_ones(name: str) -> None:
    preset, published = model_named(name), published_shapes(name)
    with torch.device("meta"):
        model = Infinity(preset.transformer, preset.tokenizer.token_bits)
        vae = Autoencoder(preset.tokenizer)
    for part, module in (("transformer", model), ("vae", vae)):
        shapes = {n: list(p.shape) for n, p in module.named_parameters()}
        assert shapes == published[part]


@pytest.mark.parametrize("name", PUBLISHED)
def test_stated_sizes_are_those_of_the_tensors(name: str) -> None:
    sizes, parts = model_named(name).sizes, published_shapes(name)
    assert sizes is not None
    for part, stated in (("transformer", sizes.transformer), ("vae", sizes.vae)):
        computed = 4 * sum(math.prod(shape) for shape in parts[part].values())
        assert computed <= stated < computed * 1.01  # the rest is constant buffers


@pytest.mark.parametrize("name", UNRELEASED)
def test_sizes_never_released_can_be_built(name: str) -> None:
    preset = model_named(name)
    spec = preset.transformer
    assert (spec.depth, spec.width, spec.heads) == UNRELEASED[name]
    assert not preset.released
    assert not preset.downloadable
    with torch.device("meta"):
        model = Infinity(spec, preset.tokenizer.token_bits)
    assert len(model.blocks) == spec.depth


def test_every_size_ships_and_those_without_weights_come_last() -> None:
    assert list_models() == ["emoji", *PUBLISHED, *sorted(UNRELEASED)]


def test_presets_share_a_vae_only_where_its_tensors_are_the_same() -> None:
    by_file: dict[str, object] = {}
    for preset in map(model_named, list_models()):
        assert by_file.setdefault(preset.files.vae, preset.tokenizer) == preset.tokenizer


def test_pixel_classes_and_ratios_are_those_of_the_schedules() -> None:
    assert list(PIXEL_CLASSES) == list(PIXELS)
    for preset in map(model_named, list_models()):
        for ratio in preset.ratios:
            full_schedule(ratio)
