"""The T5 1.1 encoder (arXiv 1910.10683, 2002.05202) as transformers has it, and its tensors by
arithmetic, for those who only ask what it is.

Knows sizes and official names; nothing of prompts and files. Importing transformers takes seconds:
it is imported with the first encoder that is made.
"""

from __future__ import annotations

from typing import Any

import torch

from scalekv.infinity_patch.files.text_config import GATED, TextConfig

TABLE = "shared.weight"
"""Features of tokens."""
DISTANCES = ".relative_attention_bias.weight"
"""How the name ends of what attention adds by distance, in the first block alone."""


def encodes_in(name: str, precision: torch.dtype) -> torch.dtype:
    """The dtype a tensor of the encoder is used in: in float16 the feed-forward's last product
    overflows, and is float32."""
    whole = precision == torch.float16 and name.endswith(".wo.weight")
    return torch.float32 if whole else precision


def shapes_of_t5(config: TextConfig) -> dict[str, tuple[int, ...]]:
    """Shapes of the encoder's tensors by name; transformers is not imported."""
    spec, width = config.spec, config.width
    inner = spec.heads * spec.head_width
    attention = {**dict.fromkeys("qkv", (inner, width)), "o": (width, inner)}
    gates = {**dict.fromkeys(("wi_0", "wi_1"), (spec.hidden, width)), "wo": (width, spec.hidden)}
    shapes: dict[str, tuple[int, ...]] = {TABLE: (spec.vocabulary, width)}
    for block in range(spec.layers):
        parts = (("SelfAttention", attention), ("DenseReluDense", gates))
        for number, (part, products) in enumerate(parts):
            layer = f"encoder.block.{block}.layer.{number}."
            shapes |= {f"{layer}{part}.{name}.weight": s for name, s in products.items()}
            if block == number == 0:
                shapes[f"{layer}{part}{DISTANCES}"] = (config.buckets, spec.heads)
            shapes[f"{layer}layer_norm.weight"] = (width,)
    return shapes | {"encoder.final_layer_norm.weight": (width,)}


def is_product(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a tensor of the encoder is the weight of a linear layer."""
    return len(shape) == 2 and name != TABLE and not name.endswith(DISTANCES)


def t5_encoder(config: TextConfig) -> Any:
    """A `transformers.T5EncoderModel` of a configuration, with first values."""
    from transformers import T5Config, T5EncoderModel

    spec = config.spec
    return T5EncoderModel(
        T5Config(
            vocab_size=spec.vocabulary,
            d_model=config.width,
            d_kv=spec.head_width,
            d_ff=spec.hidden,
            num_layers=spec.layers,
            num_heads=spec.heads,
            relative_attention_num_buckets=config.buckets,
            relative_attention_max_distance=config.farthest,
            layer_norm_epsilon=config.eps,
            feed_forward_proj=GATED,
            dropout_rate=0.0,
        )
    )
