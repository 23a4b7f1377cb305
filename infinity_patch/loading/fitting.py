"""Whether a checkpoint fits a model and, if not, which one it is.

Compares names, shapes and kinds of numbers, and says where tensors go; reads none.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from scalekv.configs.models import ModelPreset, list_models, model_named
from scalekv.infinity_patch.compute.quantised import KINDS
from scalekv.infinity_patch.files.header import SCALE, STORED
from scalekv.infinity_patch.loading.checkpoint import Checkpoint, WeightsDamaged
from scalekv.infinity_patch.model.autoencoder import Autoencoder
from scalekv.infinity_patch.model.transformer import Infinity

# buffers that published checkpoints may carry and that follow from the architecture
NOT_NEEDED = (
    "zero_k_bias",
    "lfq.mask",
    "lvl_1L",
    "attn_bias_for_masking",
    "Infinity_visible_kvlen",
    "Infinity_invisible_qlen",
)
UNCONDITIONAL = "cfg_uncond"
"""The learned rows that stand for no text: checkpoints have more or fewer of them than 512."""
UNCONDITIONAL_STD, UNCONDITIONAL_SEED = 1.2, 0
"""How the published code starts these rows: truncated normal of this width over sqrt(Ct), drawn
from a generator of its own."""

DTYPES_IN_8_BITS = {dtype: name for name, dtype in KINDS.items()}
PARTS = ("transformer", "VAE")
Shapes = dict[str, tuple[int, ...]]


def skeletons(preset: ModelPreset) -> tuple[Infinity, Autoencoder]:
    """Transformer and VAE of a preset on the meta device: names and shapes, no memory."""
    with weightless():
        transformer = Infinity(preset.transformer, preset.tokenizer.token_bits)
        return transformer, Autoencoder(preset.tokenizer)


@contextmanager
def weightless() -> Iterator[None]:
    """Modules made in the block are on the meta device, and are not given first values: for normal
    ones there, torch imports its compiler, which takes a second."""
    with torch.device("meta"), _NoFirstValues():
        yield


class _NoFirstValues(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = kwargs or {}
        if getattr(func, "__module__", "") == "torch.nn.init":
            return args[0] if args else named["tensor"]
        return func(*args, **named)


def computes_in(name: str, precision: torch.dtype) -> torch.dtype:
    """The dtype a tensor of transformer or VAE is used in, where the blocks run in `precision`.

    Blocks run in it, and so does the VAE's decoder where it is bf16 (fp16 has not its range); what
    surrounds the blocks and the VAE's encoder, whose signs become bits, in float32; so are the
    scales of weights in 8 bits.
    """
    if name.endswith(SCALE):
        return torch.float32
    lower = name.startswith("block_chunks.")
    lower = lower or (name.startswith("decoder.") and precision == torch.bfloat16)
    return precision if lower else torch.float32


def unconditional_rows(found: Tensor, rows: int) -> Tensor:
    """(rows, Ct) from the (n, Ct) of a checkpoint: cut, or padded with the initial value."""
    if len(found) >= rows:
        return found[:rows].contiguous()
    width = found.shape[1]
    initial = torch.empty(rows, width, dtype=torch.float32, device="cpu")
    generator = torch.Generator("cpu").manual_seed(UNCONDITIONAL_SEED)
    nn.init.trunc_normal_(initial, std=UNCONDITIONAL_STD, generator=generator)
    initial /= math.sqrt(width)
    return torch.cat([found, initial[len(found) :].to(found.device, found.dtype)])


def check_fits(module: nn.Module, file: Checkpoint, preset: ModelPreset, part: str) -> None:
    """Refuses a checkpoint that is not the one of `module`, which may be on the meta device.

    Args:
        part: what the module is to people, "transformer" or "VAE".

    Raises:
        WeightsDamaged: names the first tensor that is missing, too many, of another shape or of
            numbers that are no floating-point ones, and what the file seems to be.
    """
    expected = shapes_of(module)
    held = {
        name: DTYPES_IN_8_BITS[parameter.dtype]
        for name, parameter in module.named_parameters()
        if parameter.dtype in DTYPES_IN_8_BITS
    }
    needs = f"{preset.name} needs"
    problems = []
    for name, shape in expected.items():
        entry = file.entries.get(name)
        if entry is None:
            problems.append(f"{name} is missing, {needs} {shape}")
        elif not _fits(name, entry.shape, shape):
            problems.append(f"{name} has shape {entry.shape}, {needs} {shape}")
        elif name in held:
            if STORED.get(entry.kind) != held[name]:
                problems.append(f"{name} holds {entry.kind} numbers, others {held[name]} ones")
        elif not entry.floating:
            problems.append(f"{name} holds {entry.kind} numbers, {needs} floating-point ones")
    problems += [
        f"{name} is in the file and not in the {part} of {preset.name}"
        for name in file.entries
        if name not in expected and not name.endswith(NOT_NEEDED)
    ]
    if problems:
        found = {name: entry.shape for name, entry in file.entries.items()}
        raise WeightsDamaged(
            problems[0],
            where=str(file.path),
            rule=_likely_cause(found, expected, part, preset),
            fix=_fix(preset, part),
        )


def shapes_of(module: nn.Module) -> Shapes:
    """Shapes of a module's parameters by name."""
    return {name: tuple(p.shape) for name, p in module.named_parameters()}


def put_tensor(module: nn.Module, name: str, tensor: Tensor) -> None:
    """Puts a tensor in the place of a parameter on the meta device."""
    owner, _, last = name.rpartition(".")
    parameter = nn.Parameter(tensor, requires_grad=False)
    module.get_submodule(owner).register_parameter(last, parameter)


def _fits(name: str, found: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    if name == UNCONDITIONAL:
        return len(found) == 2 and found[0] > 0 and found[1] == wanted[1]
    return found == wanted


def _fix(preset: ModelPreset, part: str) -> str:
    name = preset.files.transformer if part == "transformer" else preset.files.vae
    own = f"give {preset.name} its own {part}, {name.rpartition('/')[2]}"
    return own + ", or name the model this file belongs to: --model"


def _likely_cause(found: Shapes, expected: Shapes, part: str, preset: ModelPreset) -> str:
    kept = {n: s for n, s in found.items() if not n.endswith(NOT_NEEDED)}
    owners: dict[str, list[str]] = {}
    for name in list_models():
        other = model_named(name)
        for kind, module in zip(PARTS, skeletons(other), strict=True):
            shapes = shapes_of(module)
            if kept.keys() == shapes.keys() and all(_fits(n, kept[n], shapes[n]) for n in kept):
                owners.setdefault(kind, []).append(name)
    for kind, names in owners.items():
        if preset.name in names and kind == part:
            return f"this is the {part} of {preset.name}, with numbers of another kind"
        return f"this is the {kind} of " + " and ".join(names)
    if any(name.startswith("block_chunks.") for name in kept):
        return _described(kept) + ", which no preset has"
    if any(name.startswith(("decoder.", "encoder.")) for name in kept):
        shared = sum(kept.get(n) == s for n, s in expected.items())
        return f"this has {shared} of the {len(expected)} tensors of that {part}"
    return "this is neither a transformer nor a VAE of Infinity"


def _described(kept: Shapes) -> str:
    """Describes a transformer by its tensors."""
    blocks = {m[0] for n in kept if (m := re.match(r"block_chunks\.\d+\.module\.\d+\.", n))}
    width = kept.get("pos_start", (0,))[-1]
    size = f"{len(blocks)} layers" + (f" of width {width}" if width else "")
    return f"this is a transformer of {size}"
