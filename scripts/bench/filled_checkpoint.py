"""Fill checkpoints of a preset's full size with chance numbers, for measuring without downloads.

python scripts/bench/filled_checkpoint.py infinity-2b --layout pth --out /tmp/filled

Layouts: `pth`, as the 2B model is published (float32, plain state dict and {"vae": ...}); `shards`,
safetensors with an index, each tensor in the dtype it is used in where blocks run in bf16.
Activations of the filled model stay finite: matrices are scaled by their fan-in, gains start where
training does. The text encoder is a stand-in: T5 of two layers, of the width the transformer reads.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from scalekv.configs.models import ModelPreset, model_named
from scalekv.infinity_patch.files.disk import shortage
from scalekv.infinity_patch.files.hub import BUILT_IN
from scalekv.infinity_patch.loading.fitting import computes_in, skeletons
from scalekv.kv.sizes import human_bytes

SHARD_BYTES = 2 << 30
SPARE_BYTES = 4 << 30
"""What others on the machine keep of the disk."""


def filled(name: str, parameter: Tensor, seed: int = 0) -> Tensor:
    """Float32 values for one tensor, small enough for activations to stay finite."""
    last = name.rsplit(".", 1)[-1]
    shape = parameter.shape
    if last == "scale_mul_1H11":
        return torch.full(shape, math.log(4.0))
    if last in ("bias", "q_bias", "v_bias"):
        return torch.zeros(shape)
    if last == "weight" and len(shape) == 1:
        return torch.ones(shape)
    generator = torch.Generator().manual_seed(seed)
    fan_in = math.prod(shape[1:]) or 1
    scale = 0.02 if last in ("ada_gss", "cfg_uncond", "pos_start", "mat_q") else fan_in**-0.5
    return torch.empty(shape).normal_(0, scale, generator=generator)


def tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Names and values of all parameters of a module on the meta device."""
    for seed, (name, parameter) in enumerate(module.named_parameters()):
        yield name, filled(name, parameter, seed)


def write_pth(module: nn.Module, path: Path, key: str | None = None) -> None:
    """A PyTorch file; all of it is in memory for as long as it is written."""
    state = dict(tensors(module))
    torch.save(state if key is None else {key: state}, path)


def write_shards(module: nn.Module, folder: Path) -> None:
    """Safetensors shards with an index, as `scalekv convert` writes them."""
    folder.mkdir()
    held: dict[str, Tensor] = {}
    places: dict[str, str] = {}
    names: list[str] = []

    def flush() -> None:
        names.append(f"model-{len(names) + 1:05}.safetensors")
        save_file(held, folder / names[-1])
        places.update(dict.fromkeys(held, names[-1]))
        held.clear()

    for name, value in tensors(module):
        held[name] = value.to(computes_in(name, torch.bfloat16))
        if sum(t.nbytes for t in held.values()) > SHARD_BYTES:
            flush()
    if held:
        flush()
    index = {"metadata": {}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def write_text_encoder(preset: ModelPreset, folder: Path) -> None:
    """A T5 encoder of two layers and the right width, with the built-in model's tokenizer."""
    from transformers import T5Config, T5EncoderModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    source = BUILT_IN / "emoji" / "text_encoder"
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(source / name, folder / name)
    config = T5Config.from_pretrained(source)
    config.d_model, config.num_layers = preset.transformer.text_width, 2
    torch.manual_seed(0)
    T5EncoderModel(config).save_pretrained(folder)


def bytes_of(preset: ModelPreset, layout: str) -> int:
    """What a layout takes on disk, about."""
    transformer, vae = skeletons(preset)
    dtype = torch.bfloat16 if layout == "shards" else torch.float32
    named = [*transformer.named_parameters(), *vae.named_parameters()]
    return sum(p.numel() * computes_in(name, dtype).itemsize for name, p in named)


def fill(preset: ModelPreset, layout: str, out: Path) -> None:
    """Writes transformer, VAE and text encoder under the names `--weights-dir` finds."""
    out.mkdir(parents=True)
    transformer, vae = skeletons(preset)
    if layout == "shards":
        write_shards(transformer, out / "transformer")
        state = {name: t.to(computes_in(name, torch.bfloat16)) for name, t in tensors(vae)}
        save_file(state, out / "vae.safetensors")
    else:
        write_pth(transformer, out / preset.files.transformer)
        write_pth(vae, out / preset.files.vae, "vae")
    write_text_encoder(preset, out / "text_encoder")


def main() -> int:
    """Checks the disk, fills, and says what was written."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("preset", help="a published model")
    parser.add_argument("--layout", choices=("pth", "shards"), required=True)
    parser.add_argument("--out", type=Path, required=True, help="a folder that is not there yet")
    args = parser.parse_args()
    preset = model_named(args.preset)
    if preset.files.transformer.endswith("weights") and args.layout == "pth":
        parser.error(f"{preset.name} is published in shards: --layout shards")
    needed = bytes_of(preset, args.layout)
    if args.out.exists():
        parser.error(f"{args.out} is there already")
    if lacking := shortage(args.out, needed, SPARE_BYTES):
        parser.error(f"{args.out.parent}: {lacking}")
    try:
        fill(preset, args.layout, args.out)
    except BaseException:
        shutil.rmtree(args.out, ignore_errors=True)
        raise
    total = sum(p.stat().st_size for p in args.out.rglob("*") if p.is_file())
    print(f"{args.out}: {human_bytes(total)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
