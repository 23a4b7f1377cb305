"""The encoder of a T5, from token numbers to features (arXiv 1910.10683; gated layers: 2002.05202).

Knows tensors by their names in published checkpoints; nothing of files, prompts or pictures. One
prompt at a time, nothing padded. Precision as published: in fp16 the last matrix of every
feed-forward layer is float32, and so is the stream from the first of them on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from scalekv.kv.to_device import to_device

TOKENS = "shared.weight"
LAST_NORM = "encoder.final_layer_norm.weight"
ATTENTION, FORWARD = "layer.0.SelfAttention", "layer.1.DenseReluDense"


@dataclass(frozen=True)
class T5Sizes:
    """The sizes of an encoder, by what config.json calls them.

    Attributes:
        gated: whether feed-forward layers multiply by a second projection.
        activation: "relu" or "gelu".
        buckets, farthest: of relative positions, and from which distance on all are alike.
    """

    d_model: int
    d_kv: int
    d_ff: int
    num_heads: int
    num_layers: int
    vocab_size: int
    gated: bool
    activation: str
    buckets: int = 32
    farthest: int = 128
    eps: float = 1e-6

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> T5Sizes:
        """Those of a config.json.

        Raises:
            KeyError, TypeError, ValueError: it is no T5's, or of another kind.
        """
        names = ("d_model", "d_kv", "d_ff", "num_heads", "num_layers", "vocab_size")
        kind = str(config.get("feed_forward_proj", "relu"))
        gated, activation = kind.startswith("gated-"), kind.removeprefix("gated-")
        if kind not in ("relu", "gated-relu", "gated-gelu"):
            raise ValueError(f"feed_forward_proj {kind!r} is none of relu, gated-relu, gated-gelu")
        return cls(
            **{name: int(config[name]) for name in names},
            gated=gated,
            activation=activation,
            buckets=int(config.get("relative_attention_num_buckets", 32)),
            farthest=int(config.get("relative_attention_max_distance", 128)),
            eps=float(config.get("layer_norm_epsilon", 1e-6)),
        )

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of all tensors by name."""
        inner = self.num_heads * self.d_kv
        found: dict[str, tuple[int, ...]] = {TOKENS: (self.vocab_size, self.d_model)}
        for number in range(self.num_layers):
            block = f"encoder.block.{number}"
            for name in "qkv":
                found[f"{block}.{ATTENTION}.{name}.weight"] = (inner, self.d_model)
            found[f"{block}.{ATTENTION}.o.weight"] = (self.d_model, inner)
            if number == 0:
                name = f"{block}.{ATTENTION}.relative_attention_bias.weight"
                found[name] = (self.buckets, self.num_heads)
            found[f"{block}.layer.0.layer_norm.weight"] = (self.d_model,)
            for name in ("wi_0", "wi_1") if self.gated else ("wi",):
                found[f"{block}.{FORWARD}.{name}.weight"] = (self.d_ff, self.d_model)
            found[f"{block}.{FORWARD}.wo.weight"] = (self.d_model, self.d_ff)
            found[f"{block}.layer.1.layer_norm.weight"] = (self.d_model,)
        found[LAST_NORM] = (self.d_model,)
        return found


def computes_t5_in(name: str, dtype: torch.dtype) -> torch.dtype:
    """The dtype of one tensor of an encoder that is to compute in `dtype`."""
    return torch.float32 if dtype == torch.float16 and ".wo." in name else dtype


class T5Encoder:
    """An encoder with its tensors."""

    def __init__(self, sizes: T5Sizes, take: Callable[[str], Tensor], device: torch.device) -> None:
        """`take` gives the tensor of a name of `sizes.shapes()`, on the device."""
        self.sizes, self.device = sizes, device
        self._tensors = {name: take(name) for name in sizes.shapes()}

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors."""
        return sum(tensor.nbytes for tensor in self._tensors.values())

    def __call__(self, tokens: list[int]) -> Tensor:
        """Features (L, C) of L tokens, in the dtype of the last norm's weight."""
        numbers = to_device(torch.tensor(tokens, dtype=torch.int64, device="cpu"), self.device)
        x = F.embedding(numbers, self._tensors[TOKENS])[None]
        bias = self._bias(len(tokens))
        for number in range(self.sizes.num_layers):
            block = f"encoder.block.{number}"
            normed = self._norm(x, f"{block}.layer.0.layer_norm.weight")
            x = _finite(x + self._attention(normed, f"{block}.{ATTENTION}", bias))
            normed = self._norm(x, f"{block}.layer.1.layer_norm.weight")
            x = _finite(x + self._forward(normed, f"{block}.{FORWARD}"))
        return self._norm(x, LAST_NORM)[0]

    def _product(self, x: Tensor, name: str) -> Tensor:
        return F.linear(x, self._tensors[f"{name}.weight"])

    def _norm(self, x: Tensor, name: str) -> Tensor:
        """RMS norm, its mean in float32."""
        weight = self._tensors[name]
        mean = x.float().pow(2).mean(-1, keepdim=True)
        x = x * torch.rsqrt(mean + self.sizes.eps)
        return weight * (x if weight.dtype == torch.float32 else x.to(weight.dtype))

    def _attention(self, x: Tensor, name: str, bias: Tensor) -> Tensor:
        """Every token sees every token; the scores are not scaled, but biased by distance."""
        q, k, v = (
            self._product(x, f"{name}.{part}")
            .unflatten(-1, (self.sizes.num_heads, self.sizes.d_kv))
            .transpose(1, 2)
            for part in "qkv"
        )
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=1.0)
        return self._product(out.transpose(1, 2).flatten(2), f"{name}.o")

    def _forward(self, x: Tensor, name: str) -> Tensor:
        if self.sizes.gated:
            hidden = self._activated(self._product(x, f"{name}.wi_0"))
            hidden = hidden * self._product(x, f"{name}.wi_1")
        else:
            hidden = self._activated(self._product(x, f"{name}.wi"))
        last = f"{name}.wo"
        return self._product(hidden.to(self._tensors[f"{last}.weight"].dtype), last)

    def _activated(self, x: Tensor) -> Tensor:
        if self.sizes.activation == "relu":
            return x.relu()
        # GELU (tanh) step by step, as published encoders have it: in half precision each rounds
        inside = math.sqrt(2 / math.pi) * (x + 0.044715 * x.pow(3))
        return 0.5 * x * (1 + inside.tanh())

    def _bias(self, length: int) -> Tensor:
        """(1, H, L, L): what each head adds to the score of each pair of tokens."""
        name = f"encoder.block.0.{ATTENTION}.relative_attention_bias.weight"
        sizes = self.sizes
        buckets = _buckets(length, sizes.buckets, sizes.farthest, self.device)
        return F.embedding(buckets, self._tensors[name]).permute(2, 0, 1)[None]


@lru_cache(maxsize=16)
def _buckets(length: int, count: int, farthest: int, device: torch.device) -> Tensor:
    """(L, L) int64: the bucket of a key's place (column) as a query (row) sees it.

    Half of the buckets are for keys ahead. Of each half the first half is for one distance each;
    the others grow with its logarithm, and the last is for all beyond.
    """
    with torch.inference_mode(False):  # later calls outside it get the same one
        places = torch.arange(length, device="cpu")
        away = places[None] - places[:, None]
        half, distance = count // 2, away.abs()
        near = half // 2
        growing = torch.log(distance.float() / near) / math.log(farthest / near) * (half - near)
        far = (near + growing.clamp_min(0).long()).clamp_max(half - 1)
        bucket = torch.where(distance < near, distance, far) + half * (away > 0)
        return to_device(bucket, device)


def _finite(x: Tensor) -> Tensor:
    """In fp16 what has overflowed is brought back into its range."""
    if x.dtype != torch.float16:
        return x
    most = torch.finfo(x.dtype).max
    limit = torch.where(x.isinf().any(), most - 1000, most)
    return x.clamp(-limit, limit)
