"""A folder with a text encoder: whether it is the one that a model needs, and its tensors read.

Knows configuration, tokenizer and tensors of T5; nothing of prompts.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import torch

from scalekv.configs.models import ModelPreset
from scalekv.infinity_patch.compute.quantised import hold_linear_layers, quantised
from scalekv.infinity_patch.files.hashes import quick_hash
from scalekv.infinity_patch.files.header import SCALE
from scalekv.infinity_patch.files.text_cache import FORMAT, TextCache
from scalekv.infinity_patch.files.text_config import TextConfig, read_text_config
from scalekv.infinity_patch.loading.checkpoint import Checkpoint, WeightsDamaged, open_checkpoint
from scalekv.infinity_patch.loading.fitting import Shapes, put_tensor, weightless
from scalekv.infinity_patch.machine.computes import exactly
from scalekv.infinity_patch.model.t5 import (
    TABLE,
    encodes_in,
    is_product,
    shapes_of_t5,
    t5_encoder,
)
from scalekv.infinity_patch.model.text import TextEncoder, TextPrecision
from scalekv.infinity_patch.model.tokens import read_tokenizer
from scalekv.kv.dtypes import DTYPE_NAMES
from scalekv.kv.errors import UserError

OF_THE_OTHER_HALF = ("decoder.", "lm_head.")
"""Tensors of a whole T5, whose encoder alone is used."""
TABLE_OF_ENCODER = "encoder.embed_tokens.weight"
"""Another name of the table of token features; files have either or both."""


def check_text_encoder(folder: Path, preset: ModelPreset) -> None:
    """Refuses a text encoder that would give other features than it was trained to.

    Raises:
        UserError: features of another width than the transformer reads; a configuration or a
            tokenizer that cannot be read or does not belong to it; tensors that are missing or
            that the encoder has no place for, as factors of scaled numbers are.
    """
    config = read_text_config(folder)
    if config.width != preset.transformer.text_width:
        raise UserError(
            f"the text encoder gives features of width {config.width}, {preset.name} reads "
            f"{preset.transformer.text_width}",
            where=str(folder / "config.json"),
            rule="a preset's transformer, VAE and text encoder belong together",
            fix=f"give {preset.name} its own text encoder, {preset.files.text_encoder}",
        )
    _check_tokens(folder / "tokenizer.json", config.spec.vocabulary)
    _check_tensors(folder, shapes_of_t5(config), preset)


def text_tensors(folder: Path, dtype: torch.dtype) -> tuple[tuple[str, torch.dtype, int], ...]:
    """(name, dtype, bytes) of the tensors of the encoder that a folder's config.json describes, in
    the dtypes they are used in where the encoder computes in `dtype`.

    Raises:
        UserError: it describes none.
    """
    kinds = held_in(read_text_config(folder), dtype)
    return tuple((name, kind, numbers * kind.itemsize) for name, (kind, numbers) in kinds.items())


def read_text_encoder(
    folder: Path, precision: TextPrecision, *, keep: bool = True, cache: Path | None = None
) -> TextEncoder:
    """The text encoder of a folder, whose weights are read when they are needed.

    Args:
        keep: as for `TextEncoder`.
        cache: a folder for features of prompts, see `TextCache`.

    Raises:
        UserError: no configuration, or no tokenizer; a cache that cannot be a folder.
    """
    config = read_text_config(folder)
    kinds = held_in(config, precision.dtype, precision.in_8_bits)
    return TextEncoder(
        partial(_read, folder, precision),
        read_tokenizer(folder / "tokenizer.json"),
        precision,
        sum(numbers * kind.itemsize for kind, numbers in kinds.values()),
        config.width,
        keep=keep,
        cache=None if cache is None else text_cache(cache, folder, precision),
    )


def text_cache(cache: Path, folder: Path, precision: TextPrecision) -> TextCache:
    """What is kept, in the folder `cache`, of the features that the encoder in `folder` gives.

    They depend on all that the encoder is, files and code, on its precision and on what computes.

    Raises:
        UserError: it cannot be a folder.
    """

    def facts() -> dict[str, str]:
        return {
            "format": FORMAT,
            "encoder": quick_hash(folder),  # as it is now: a freed one is read again
            "dtype": DTYPE_NAMES[precision.dtype],
            "weights": precision.name,
            **exactly(precision.device),
        }

    return TextCache.at(cache, facts)


def held_in(
    config: TextConfig, dtype: torch.dtype, in_8_bits: bool = False
) -> dict[str, tuple[torch.dtype, int]]:
    """The dtype that each tensor of an encoder is held in, where it computes in `dtype`, and how
    many numbers it has."""
    held: dict[str, tuple[torch.dtype, int]] = {}
    for name, shape in shapes_of_t5(config).items():
        if in_8_bits and is_product(name, shape):
            held[name] = torch.int8, prod(shape)
            held[name.removesuffix(".weight") + SCALE] = torch.float32, shape[0]
        else:
            held[name] = encodes_in(name, dtype), prod(shape)
    return held


@contextmanager
def open_text(folder: Path) -> Iterator[Checkpoint]:
    """The tensors of a text encoder's folder, one file or shards, under the encoder's own names.

    Raises:
        WeightsDamaged: they cannot be read.
    """
    single = folder / "model.safetensors"
    try:
        with open_checkpoint(single if single.is_file() else folder) as found:
            yield _own_names(found)
    except WeightsDamaged as error:
        raise WeightsDamaged(
            f"the text encoder cannot be loaded: {error.what}",
            where=error.where,
            rule=error.rule,
            fix=error.fix,
        ) from error


def _own_names(found: Checkpoint) -> Checkpoint:
    if TABLE in found.entries or TABLE_OF_ENCODER not in found.entries:
        return found
    entries = {TABLE if n == TABLE_OF_ENCODER else n: e for n, e in found.entries.items()}
    return replace(
        found,
        entries=entries,
        read=lambda name: found.read(TABLE_OF_ENCODER if name == TABLE else name),
    )


def _read(folder: Path, precision: TextPrecision) -> Any:
    config = read_text_config(folder)
    with weightless():
        encoder = t5_encoder(config)
        if precision.in_8_bits:
            hold_linear_layers(
                encoder, torch.int8, lambda name: encodes_in(f"{name}.weight", precision.dtype)
            )
    with open_text(folder) as checkpoint:
        for name, (kind, _) in held_in(config, precision.dtype, precision.in_8_bits).items():
            if kind is torch.int8:
                with checkpoint.passing(name) as whole:
                    held, scale = quantised(whole, kind, precision.device)
                put_tensor(encoder, name, held)
                put_tensor(encoder, name.removesuffix(".weight") + SCALE, scale)
            elif not name.endswith(SCALE):
                put_tensor(encoder, name, checkpoint.take(name, kind, precision.device))
    encoder.set_input_embeddings(encoder.shared)  # the encoder's own table is the same one
    return encoder.eval()


def _check_tokens(file: Path, known: int) -> None:
    highest = max(read_tokenizer(file).get_vocab(with_added_tokens=True).values(), default=0)
    if highest >= known:
        raise UserError(
            f"the tokenizer has the token {highest}, the text encoder knows those below {known}",
            where=str(file),
            rule="a tokenizer and its text encoder belong together: vocab_size in config.json",
            fix="put the text encoder's own tokenizer.json there",
        )


def _check_tensors(folder: Path, expected: Shapes, preset: ModelPreset) -> None:
    with open_text(folder) as checkpoint:
        entries = checkpoint.entries
    problems = [
        f"{name} is in the file and not in the encoder of config.json"
        for name in entries
        if name not in expected
        and name != TABLE_OF_ENCODER
        and not name.startswith(OF_THE_OTHER_HALF)
    ]
    for name, shape in expected.items():
        found = entries.get(name)
        if found is None:
            problems.append(f"{name} is missing")
        elif found.shape != shape:
            problems.append(f"{name} has shape {found.shape}, config.json says {shape}")
        elif not found.floating:
            problems.append(f"{name} holds {found.kind} numbers, not floating-point ones")
    if problems:
        raise WeightsDamaged(
            "the text encoder cannot be loaded",
            where=str(folder),
            rule=f"{problems[0]}; every tensor is used, as it is: no scaled or quantised numbers, "
            "no layers more or fewer than config.json has",
            fix=f"give {preset.name} its own text encoder, {preset.files.text_encoder}, in fp32, "
            "bf16 or fp16",
        )
