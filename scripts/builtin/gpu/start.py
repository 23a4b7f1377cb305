"""The weights a training goes on from: those in the package, made to fit the next model.

The next model has a block less than the first one shipped, fewer rows for no text, and finer
scales. Knows tensors by name; nothing of trainings.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from scalekv.configs.models import ModelPreset, read_preset
from scalekv.configs.spec import TransformerSpec
from scripts.builtin.training import in_float

PRESET_FILE = Path(__file__).parents[1] / "emoji-256.yaml"
FIRST_SCALES = 7  # of the first model shipped, which does not say so in its file
SCALES = "scales"  # the file's note of how many scales it was trained on

LEAST_MISSED = 4
"""The block that goes. Loss of the first model's bits by scale over 48 drawings, teacher-forced:
with all blocks 0.001 0.006 0.035 0.100 0.147 0.248 0.259, without this one 0.003 0.020 0.094 0.181
0.238 0.332 0.341, without any other one more."""

_BLOCK = re.compile(r"block_chunks\.(\d+)\.module\.(\d+)\.")


@dataclass(frozen=True)
class Weights:
    """Float32 tensors of the parts, by their names in the files; scales: what they know."""

    transformer: dict[str, Tensor]
    text: dict[str, Tensor]
    vae: dict[str, Tensor]
    scales: int


def next_preset() -> ModelPreset:
    """The model that is trained next."""
    return read_preset(PRESET_FILE)


def start(folder: Path, spec: TransformerSpec) -> Weights:
    """The weights in `folder`, laid out as the package has them, for a transformer of `spec`."""
    path = folder / "transformer.safetensors"
    with safe_open(path, "pt") as file:
        scales = int((file.metadata() or {}).get(SCALES, FIRST_SCALES))
    words = in_float(folder / "text_encoder" / "model.safetensors")
    return Weights(
        transformer=fitted(in_float(path), spec, scales),
        text=words | {"encoder.embed_tokens.weight": words["shared.weight"]},
        vae=in_float(folder / "vae.safetensors"),
        scales=scales,
    )


def fitted(tensors: dict[str, Tensor], spec: TransformerSpec, scales: int) -> dict[str, Tensor]:
    """A transformer's tensors for one with as many blocks or one less, in other chunks."""
    found = {
        match[0]: (int(match[1]), int(match[2])) for match in map(_BLOCK.match, tensors) if match
    }
    order = sorted(found, key=lambda stem: found[stem])
    if len(order) == spec.depth + 1:
        del order[LEAST_MISSED]
    assert len(order) == spec.depth, f"{len(order)} blocks, {spec.depth} are wanted"
    per_chunk = spec.depth // spec.chunks
    stems = {
        stem: f"block_chunks.{i // per_chunk}.module.{i % per_chunk}."
        for i, stem in enumerate(order)
    }
    kept: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        match = _BLOCK.match(name)
        if match is None:
            kept[name] = tensor
        elif match[0] in stems:
            kept[stems[match[0]] + name[match.end() :]] = tensor
    kept["cfg_uncond"] = kept["cfg_uncond"][: spec.text_max].clone()
    levels = kept["lvl_embed.weight"].clone()
    levels[scales:] = levels[scales - 1]  # a new scale begins as the finest known one
    kept["lvl_embed.weight"] = levels
    return kept
