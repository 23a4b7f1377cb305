"""From a preset and its files to a pipeline, with no second copy of the weights in memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from scalekv.configs.models import ModelPreset, model_named
from scalekv.infinity_patch.autoencoder import Autoencoder
from scalekv.infinity_patch.checkpoint import WeightsDamaged, open_checkpoint
from scalekv.infinity_patch.hub import model_files
from scalekv.infinity_patch.stages import Stages
from scalekv.infinity_patch.text import TextEncoder
from scalekv.infinity_patch.transformer import Infinity
from scalekv.kv.errors import UserError

# buffers that published checkpoints may carry and that follow from the architecture
NOT_NEEDED = (
    "zero_k_bias",
    "lfq.mask",
    "lvl_1L",
    "attn_bias_for_masking",
    "Infinity_visible_kvlen",
    "Infinity_invisible_qlen",
)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass
class Pipeline:
    """A model ready to generate.

    `weights_bytes` maps each part to the bytes of its tensors; `stages` has the peaks of loading,
    and of everything that is generated with it.
    """

    preset: ModelPreset
    model: Infinity
    vae: Autoencoder
    text: TextEncoder
    device: torch.device
    dtype: torch.dtype
    weights_dir: Path | None
    weights_bytes: dict[str, int]
    stages: Stages


def load(
    model: str | ModelPreset = "emoji",
    *,
    device: str = "auto",
    dtype: str = "auto",
    weights_dir: str | Path | None = None,
) -> Pipeline:
    """Load a model.

    Args:
        model: the name of a preset, or one.
        device: "auto" (CUDA where there is one), "cpu", "cuda", "cuda:1", "mps".
        dtype: of the matrix products inside the blocks: "auto" (bf16 on CUDA, fp32 elsewhere),
            "fp32", "bf16". What surrounds the blocks stays in float32.
        weights_dir: a folder with the preset's files instead of the usual place.

    Raises:
        UserError: missing, damaged or foreign weights, or a device that is not there.
    """
    preset = model if isinstance(model, ModelPreset) else model_named(model)
    place = _device(device)
    precision = _dtype(dtype, place)
    folder = None if weights_dir is None else Path(weights_dir)
    paths = model_files(preset, folder)
    with torch.device("meta"):
        transformer = Infinity(preset.transformer, preset.tokenizer.token_bits)
        vae = Autoencoder(preset.tokenizer)
    inside = {id(p) for p in transformer.block_chunks.parameters()}
    dtypes = {
        name: precision if id(p) in inside else torch.float32
        for name, p in transformer.named_parameters()
    }
    stages = Stages(place)
    with stages.stage("load"):
        _fill(transformer, paths.transformer, dtypes, place, preset.name)
        _fill(vae, paths.vae, {}, place, preset.name)
        text = TextEncoder(
            paths.text_encoder, place, torch.float16 if place.type == "cuda" else torch.float32
        )
    return Pipeline(
        preset=preset,
        model=transformer.eval().requires_grad_(False),
        vae=vae.eval().requires_grad_(False),
        text=text,
        device=place,
        dtype=precision,
        weights_dir=folder,
        weights_bytes={
            "transformer": sum(p.nbytes for p in transformer.parameters()),
            "vae": sum(p.nbytes for p in vae.parameters()),
            "text_encoder": text.nbytes,
        },
        stages=stages,
    )


def _fill(
    module: nn.Module,
    path: Path,
    dtypes: dict[str, torch.dtype],
    device: torch.device,
    name: str,
) -> None:
    """Give a module on the meta device its tensors, each read once in its final dtype."""
    expected = {n: tuple(p.shape) for n, p in module.named_parameters()}
    with open_checkpoint(path) as checkpoint:
        _check_shapes(expected, checkpoint.shapes, path, name)
        state = {n: checkpoint.read(n).to(device, dtypes.get(n, torch.float32)) for n in expected}
    module.load_state_dict(state, assign=True, strict=True)


def _check_shapes(
    expected: dict[str, tuple[int, ...]],
    found: dict[str, tuple[int, ...]],
    path: Path,
    name: str,
) -> None:
    problems = []
    for tensor, shape in expected.items():
        if tensor not in found:
            problems.append(f"{tensor} is missing, {name} needs {shape}")
        elif found[tensor] != shape:
            problems.append(f"{tensor} has shape {found[tensor]}, {name} needs {shape}")
    for tensor in found:
        if tensor not in expected and not tensor.endswith(NOT_NEEDED):
            problems.append(f"{tensor} is in the file and not in {name}")
    if problems:
        raise WeightsDamaged(
            problems[0],
            where=str(path),
            rule="a preset's transformer, VAE and text encoder belong together",
            fix=f"use the files of {name}, or name the model these files belong to",
        )


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(
            f"there is no device {name!r} here",
            where="--device",
            rule="auto, cpu, cuda, cuda:N or mps, as this machine and this torch have it",
            fix="--device cpu",
        ) from error
    return device


def _dtype(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if name not in DTYPES:
        raise UserError(
            f"no dtype {name!r}", where="--dtype", rule="auto, " + ", ".join(DTYPES), fix="auto"
        )
    return DTYPES[name]
