"""What a folder's config.json says of the T5 encoder in it. Knows JSON and sizes; no torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scalekv.configs.spec import TextSpec
from scalekv.kv.errors import UserError

GATED = "gated-gelu"
"""The feed-forward of T5 1.1 and FLAN-T5."""
FIRST = "relu"
"""That of the first T5, which is meant where a configuration names none."""


@dataclass(frozen=True)
class TextConfig:
    """A T5 encoder: its sizes, the width of its features, and how it counts distances.

    buckets: of distances between tokens; farthest: from which on they share one; eps: of norms.
    """

    spec: TextSpec
    width: int
    buckets: int
    farthest: int
    eps: float


def read_text_config(folder: Path) -> TextConfig:
    """The configuration in a text encoder's folder, as transformers writes it.

    Raises:
        UserError: it cannot be read, or is of no T5 encoder with a gated feed-forward.
    """
    file = folder / "config.json"
    try:
        config: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        names = ("num_layers", "num_heads", "d_kv", "d_ff", "vocab_size")
        found = TextConfig(
            spec=TextSpec(*(_count(config[name]) for name in names)),
            width=_count(config["d_model"]),
            buckets=_count(config.get("relative_attention_num_buckets", 32)),
            farthest=_count(config.get("relative_attention_max_distance", 128)),
            eps=float(config.get("layer_norm_epsilon", 1e-6)),
        )
        forward = config.get("feed_forward_proj", FIRST)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            "the text encoder cannot be loaded",
            where=str(folder),
            rule=f"config.json is no configuration of a T5 encoder: {error}",
            fix="fetch the model's files again",
        ) from error
    if forward != GATED:
        raise UserError(
            f"the text encoder's feed-forward is {forward!r}",
            where=str(file),
            rule=f"a T5 1.1, as FLAN-T5 is: feed_forward_proj is {GATED}",
            fix="give the model its own text encoder",
        )
    return found


def _count(value: object) -> int:
    number = int(value)  # type: ignore[call-overload]
    if number < 1:
        raise ValueError(f"{value!r} is not at least 1")
    return int(number)
