"""The encoder of T5 1.1 (arXiv 1910.10683, 2002.05202): tokens to features, one prompt at a time.

Knows tokens and tensors under their official names; nothing of prompts and files.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scalekv.infinity_patch.compute.products import weights_dtype
from scalekv.infinity_patch.files.text_config import TextConfig

ROOM = 1000
"""How far below its largest number float16 is cut where a sum has become infinite."""


def encodes_in(name: str, precision: torch.dtype) -> torch.dtype:
    """The dtype a tensor of the encoder is used in: in float16 the feed-forward's last product
    overflows, and is float32."""
    whole = precision == torch.float16 and name.endswith(".wo.weight")
    return torch.float32 if whole else precision


class T5Norm(nn.Module):
    """RMS norm over the last axis; its statistics in float32, its answer in its weight's dtype."""

    def __init__(self, width: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        x = x.float()
        x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * x.to(self.weight.dtype)


class T5Attention(nn.Module):
    """Attention of all tokens to all, whose logits are not scaled and get a bias by distance."""

    def __init__(self, config: TextConfig, *, first: bool):
        super().__init__()
        width, inner = config.width, config.spec.heads * config.spec.head_width
        self.head_width = config.spec.head_width
        self.q = nn.Linear(width, inner, bias=False)
        self.k = nn.Linear(width, inner, bias=False)
        self.v = nn.Linear(width, inner, bias=False)
        self.o = nn.Linear(inner, width, bias=False)
        if first:  # all blocks share the first one's
            self.farthest = config.farthest
            self.relative_attention_bias = nn.Embedding(config.buckets, config.spec.heads)

    def bias(self, length: int, device: torch.device) -> Tensor:
        """(1, heads, length, length) by distance, of a first block's."""
        table = self.relative_attention_bias
        places = buckets_of(length, table.num_embeddings, self.farthest, device)
        found: Tensor = table(places).permute(2, 0, 1)[None].contiguous()
        return found

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """(1, L, width) from the same, and a bias (1, heads, L, L)."""
        heads = (
            linear(x).unflatten(-1, (-1, self.head_width)) for linear in (self.q, self.k, self.v)
        )
        q, k, v = (each.transpose(1, 2) for each in heads)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=1.0)
        answer: Tensor = self.o(out.transpose(1, 2).flatten(2))
        return answer


class T5FeedForward(nn.Module):
    """The feed-forward with a gate through GELU."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.wi_0 = nn.Linear(width, hidden, bias=False)
        self.wi_1 = nn.Linear(width, hidden, bias=False)
        self.wo = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        hidden = gelu(self.wi_0(x)) * self.wi_1(x)
        answer: Tensor = self.wo(hidden.to(weights_dtype(self.wo) or hidden.dtype))
        return answer


def gelu(x: Tensor) -> Tensor:
    """GELU by tanh, a step at a time: in half precisions each is rounded, as in training."""
    inner = math.sqrt(2.0 / math.pi) * (x + 0.044715 * torch.pow(x, 3.0))
    return 0.5 * x * (1.0 + torch.tanh(inner))


class _Attending(nn.Module):
    def __init__(self, config: TextConfig, *, first: bool):
        super().__init__()
        self.SelfAttention = T5Attention(config, first=first)
        self.layer_norm = T5Norm(config.width, config.eps)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        return finite(x + self.SelfAttention(self.layer_norm(x), bias))


class _Thinking(nn.Module):
    def __init__(self, config: TextConfig):
        super().__init__()
        self.DenseReluDense = T5FeedForward(config.width, config.spec.hidden)
        self.layer_norm = T5Norm(config.width, config.eps)

    def forward(self, x: Tensor) -> Tensor:
        return finite(x + self.DenseReluDense(self.layer_norm(x)))


class T5Block(nn.Module):
    """One layer: attention and feed-forward, each added to the stream."""

    def __init__(self, config: TextConfig, *, first: bool):
        super().__init__()
        self.layer = nn.ModuleList([_Attending(config, first=first), _Thinking(config)])

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        attending, thinking = self.layer
        answer: Tensor = thinking(attending(x, bias))
        return answer


def finite(x: Tensor) -> Tensor:
    """In float16, where a sum became infinite: all cut a little below the largest number."""
    if x.dtype != torch.float16:
        return x
    most = torch.finfo(x.dtype).max
    bound = torch.where(x.isinf().any(), most - ROOM, most)
    return x.clamp(-bound, bound)


class _Stack(nn.Module):
    def __init__(self, config: TextConfig):
        super().__init__()
        blocks = (T5Block(config, first=i == 0) for i in range(config.spec.layers))
        self.block = nn.ModuleList(blocks)
        self.final_layer_norm = T5Norm(config.width, config.eps)


class T5Encoder(nn.Module):
    """The encoder of a configuration."""

    def __init__(self, config: TextConfig):
        super().__init__()
        self.shared = nn.Embedding(config.spec.vocabulary, config.width)
        self.encoder = _Stack(config)

    def forward(self, tokens: Tensor) -> Tensor:
        """Features (L, width), in the weights' dtype, of the tokens (L,) of one prompt."""
        x = self.shared(tokens[None])
        first = self.encoder.block.get_submodule("0.layer.0.SelfAttention")
        assert isinstance(first, T5Attention), first
        bias = first.bias(len(tokens), tokens.device)
        for block in self.encoder.block:
            x = block(x, bias)
        features: Tensor = self.encoder.final_layer_norm(x)[0]
        return features


def buckets_of(length: int, buckets: int, farthest: int, device: torch.device) -> Tensor:
    """(L, L): the bucket of how far key j is from query i.

    Half of them are for keys that come after. Of each half, half are for one distance each and the
    others for ranges that grow by a factor, the last for all from `farthest` on.
    """
    places = torch.arange(length, device=device)
    distance = places[None] - places[:, None]
    half = buckets // 2
    single = half // 2
    after, distance = (distance > 0) * half, distance.abs()
    growth = torch.log(distance.float() / single) / math.log(farthest / single)
    ranged = (single + (growth * (half - single)).long()).clamp(max=half - 1)
    return after + torch.where(distance < single, distance, ranged)
