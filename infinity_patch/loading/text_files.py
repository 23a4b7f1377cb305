"""Whether a folder holds the text encoder that a model needs: configuration, tokenizer, tensors.

Compares names, widths and numbers of tokens; reads no tensor.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from scalekv.configs.models import ModelPreset
from scalekv.infinity_patch.loading.checkpoint import WeightsDamaged, open_checkpoint
from scalekv.infinity_patch.loading.fitting import Shapes, shapes_of
from scalekv.infinity_patch.model.tokens import read_tokenizer
from scalekv.kv.errors import UserError

OF_THE_OTHER_HALF = ("decoder.", "lm_head.")
"""Tensors of a whole T5, whose encoder alone is used."""
SAME_TABLE = "shared.weight", "encoder.embed_tokens.weight"
"""Two names of the table of token features; files have either or both."""


def check_text_encoder(folder: Path, preset: ModelPreset) -> None:
    """Refuses a text encoder that would give other features than it was trained to.

    Raises:
        UserError: features of another width than the transformer reads; a configuration or a
            tokenizer that cannot be read or does not belong to it; tensors that are missing or
            that the encoder has no place for, as factors of scaled numbers are.
    """
    file = folder / "config.json"
    try:
        config: Any = json.loads(file.read_text(encoding="utf-8"))
        width, tokens = int(config["d_model"]), int(config["vocab_size"])
        expected = encoder_shapes(folder)
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise UserError(
            "the text encoder cannot be loaded",
            where=str(folder),
            rule=f"config.json is no configuration of a T5 encoder: {error}",
            fix="fetch the model's files again",
        ) from error
    if width != preset.transformer.text_width:
        raise UserError(
            f"the text encoder gives features of width {width}, {preset.name} reads "
            f"{preset.transformer.text_width}",
            where=str(file),
            rule="a preset's transformer, VAE and text encoder belong together",
            fix=f"give {preset.name} its own text encoder, {preset.files.text_encoder}",
        )
    _check_tokens(folder / "tokenizer.json", tokens)
    _check_tensors(folder, expected, preset)


def encoder_shapes(folder: Path) -> Shapes:
    """Shapes by name of the parameters of the T5 encoder that a folder's config.json describes.

    Raises:
        OSError, ValueError, TypeError: it describes none.
    """
    from transformers import T5Config, T5EncoderModel

    with torch.device("meta"):
        return shapes_of(T5EncoderModel(T5Config.from_pretrained(folder, local_files_only=True)))


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
    single = folder / "model.safetensors"
    try:
        with open_checkpoint(single if single.is_file() else folder) as checkpoint:
            entries = checkpoint.entries
    except WeightsDamaged as error:
        raise WeightsDamaged(
            f"the text encoder cannot be loaded: {error.what}",
            where=error.where,
            rule=error.rule,
            fix=error.fix,
        ) from error
    problems = [
        f"{name} is in the file and not in the encoder of config.json"
        for name in entries
        if name not in expected
        and name not in SAME_TABLE
        and not name.startswith(OF_THE_OTHER_HALF)
    ]
    for name, shape in expected.items():
        found = next((entries[n] for n in _names(name) if n in entries), None)
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


def _names(name: str) -> tuple[str, ...]:
    return SAME_TABLE if name in SAME_TABLE else (name,)
