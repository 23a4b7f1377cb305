"""The Infinity transformer under the official tensor names.

Knows hidden states and conditions; nothing of bits, sampling or cache compression: unpatched, its
self-attention keeps every token. Notation: G sequences (both guidance halves), L tokens of the
current scale, C width, H heads, D = C / H. What it computes: arXiv 2412.04431; precision: the
residual stream, norms, modulation and head in float32, matrix products in the weights' dtype.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scalekv.configs.spec import TransformerSpec
from scalekv.infinity_patch.compute.kernels.norm import EPS as NORM_EPS
from scalekv.infinity_patch.compute.kernels.norm import norm
from scalekv.infinity_patch.compute.kernels.residual import add_norm
from scalekv.infinity_patch.compute.offload import BlockStream
from scalekv.infinity_patch.compute.processor import row_slices
from scalekv.infinity_patch.compute.products import apply, is_plain, weights_dtype
from scalekv.infinity_patch.compute.quantised import QuantisedLinear
from scalekv.infinity_patch.model.attention import attend, project, queries_keys_values
from scalekv.infinity_patch.model.parameters import LEVELS, mlp_width
from scalekv.infinity_patch.model.rotary import Scales3
from scalekv.infinity_patch.model.text_rows import (
    TextKeysValues,
    TextNorm,
    TextPool,
    TextRows,
    additive,
)


class CrossAttention(TextKeysValues):
    """Attention on the text, whose keys and values are computed once per picture."""

    def __init__(self, width: int, heads: int):
        super().__init__(width, width)
        self.heads = heads
        self.mat_q = nn.Linear(width, width)

    def forward(self, x: Tensor, memory: tuple[Tensor, Tensor], mask: Tensor | None) -> Tensor:
        """x (G, L, C) to (G, L, C)."""
        q = apply(self.mat_q, x)
        q = q.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        out = F.scaled_dot_product_attention(q, *memory, attn_mask=mask)
        return apply(self.proj, out.transpose(1, 2).flatten(2))


class SelfAttention(nn.Module):
    """Attention of the current scale on itself and all coarser scales; keeps every token."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.mat_qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.scale_mul_1H11 = nn.Parameter(torch.empty(1, heads, 1, 1))
        nn.init.constant_(self.scale_mul_1H11, math.log(4.0))
        self.proj = nn.Linear(width, width)
        self.caching = False
        self.cached_k: Tensor | None = None
        self.cached_v: Tensor | None = None

    def kv_caching(self, enable: bool) -> None:
        """Start or stop keeping keys and values; either way what was kept is dropped."""
        self.caching = enable
        self.cached_k = self.cached_v = None

    def keep_sequences(self, count: int) -> None:
        """Between two scales: drop what was kept of all sequences but the first."""
        if self.cached_k is not None and self.cached_v is not None:
            self.cached_k, self.cached_v = self.cached_k[:count], self.cached_v[:count]

    def forward(
        self,
        x: Tensor,
        attn_bias_or_two_vector: Tensor | None = None,
        attn_fn: object = None,
        scale_schedule: Scales3 = (),
        rope2d_freqs_grid: Mapping[str, Tensor] | None = None,
        scale_ind: int = 0,
    ) -> Tensor:
        """x (G, L, C), the tokens of scale `scale_ind`, to (G, L, C). Signature as published."""
        assert rope2d_freqs_grid is not None
        q, k, v = queries_keys_values(self, x, scale_schedule, rope2d_freqs_grid, scale_ind)
        if self.caching:
            if self.cached_k is not None and self.cached_v is not None:
                k = torch.cat([self.cached_k, k], dim=2)
                v = torch.cat([self.cached_v, v], dim=2)
            self.cached_k, self.cached_v = k, v
        return project(self, attend(q, k, v))


class FeedForward(nn.Module):
    """Linear, GELU (tanh), linear."""

    def __init__(self, width: int):
        super().__init__()
        self.fc1 = nn.Linear(width, mlp_width(width))
        self.fc2 = nn.Linear(mlp_width(width), width)

    def forward(self, x: Tensor) -> Tensor:
        return apply(self.fc2, apply(self.fc1, x, gelu=True))


@dataclass
class Condition:
    """What a picture's text gives the model, computed once per picture.

    start: (G, C) float32, the start-of-sequence vector; modulation: per block its gains, factors
    and shifts, see `Block.modulation`; head: (factor, shift), each (G, 1, C); memory: per block the
    cross-attention keys and values, each (G, H, T, D); mask: (G, 1, 1, T), added to attention's
    logits, or None where nothing is padded.
    """

    start: Tensor
    modulation: list[Tensor]
    head: tuple[Tensor, Tensor]
    memory: list[tuple[Tensor, Tensor]]
    mask: Tensor | None

    def first(self, sequences: int) -> Condition:
        """That of the first sequences alone, in the same memory."""
        return Condition(
            self.start[:sequences],
            [table[:, :sequences] for table in self.modulation],
            (self.head[0][:sequences], self.head[1][:sequences]),
            [(k[:sequences], v[:sequences]) for k, v in self.memory],
            None if self.mask is None else self.mask[:sequences],
        )


class Block(nn.Module):
    """Self-attention, cross-attention, feed-forward on a float32 residual stream."""

    def __init__(self, spec: TransformerSpec):
        super().__init__()
        width = spec.width
        self.ada_gss = nn.Parameter(torch.zeros(1, 1, 6, width))
        self.sa = SelfAttention(width, spec.heads)
        self.ca_norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.ca = CrossAttention(width, spec.heads)
        self.ffn = FeedForward(width)

    @property
    def linears(self) -> tuple[nn.Module, ...]:
        """The linear layers after self-attention."""
        return self.ca.mat_q, self.ca.proj, self.ffn.fc1, self.ffn.fc2

    @property
    def compute_dtype(self) -> torch.dtype:
        """The dtype of the matrix products, which is that of the weights."""
        return weights_dtype(self.ffn.fc1) or torch.float32

    def modulation(self, shared: Tensor) -> Tensor:
        """What multiplies and shifts this block's hidden states, (6, G, 1, C) float32.

        `shared` is the AdaLN table all blocks share, (G, 1, 6, C). In order: two gains, of what
        attention and feed-forward add; two factors and two shifts, of what they are given.
        """
        table = (self.ada_gss + shared).float().permute(2, 0, 1, 3)
        one = torch.zeros(6, 1, 1, 1, dtype=table.dtype, device=table.device)
        one[2:4] = 1  # stored is by how much a factor differs from 1
        return table + one

    def forward(
        self,
        x: Tensor,
        modulation: Tensor,
        memory: tuple[Tensor, Tensor],
        mask: Tensor | None,
        schedule: Scales3,
        tables: Mapping[str, Tensor],
        scale: int,
    ) -> Tensor:
        """x (G, L, C) float32 to the same; `modulation` as the method of that name gives it.

        Where tokens are worked on some at a time, the answer is written over x.
        """
        dtype = self.compute_dtype
        _, _, factor, _, shift, _ = modulation.unbind()
        # whatever is called as a module of its own is called once, with all rows
        slices = list(row_slices(x)) if all(map(is_plain, self.linears)) else [slice(None)]
        whole = len(slices) == 1
        if whole:
            h = modulated_norm(x, factor, shift, dtype)
        else:
            h = torch.empty(x.shape, dtype=dtype, device=x.device)
            for rows in slices:
                h[:, rows] = modulated_norm(x[:, rows], factor, shift, dtype)
        h = self.sa(
            h,
            None,
            attn_fn=None,
            scale_schedule=schedule,
            rope2d_freqs_grid=tables,
            scale_ind=scale,
        )
        if whole:
            return self.after_attention(x, h, modulation, memory, mask)
        with QuantisedLinear.all_written(self.linears):
            for rows in slices:
                self.after_attention(x[:, rows], h[:, rows], modulation, memory, mask)
        return x

    def after_attention(
        self,
        x: Tensor,
        h: Tensor,
        modulation: Tensor,
        memory: tuple[Tensor, Tensor],
        mask: Tensor | None,
    ) -> Tensor:
        """The rest of the block, in which no token sees another: h (G, L, C) is attention's.

        The answer is written over x, unless gradients are wanted.
        """
        gain, gain_2, _, factor, _, shift = modulation.unbind()
        dtype, affine = self.compute_dtype, self.ca_norm
        x, h = added_norm(x, h, gain, affine.weight, affine.bias, dtype)
        x, h = added_norm(x, self.ca(h, memory, mask), None, factor, shift, dtype)
        h = self.ffn(h)
        if torch.is_grad_enabled():
            return torch.addcmul(x, gain_2, h.float())
        return x.addcmul_(gain_2, h)


def modulated_norm(x: Tensor, factor: Tensor, shift: Tensor, dtype: torch.dtype) -> Tensor:
    """Layer norm of x (G, L, C) times `factor` plus `shift`, each (G, 1, C) or (C,), cast to
    `dtype`."""
    if torch.is_grad_enabled():
        normed = F.layer_norm(x, x.shape[-1:], eps=NORM_EPS)
        return (normed * factor.float() + shift.float()).to(dtype)
    return norm(x, factor, shift, dtype)


def added_norm(
    x: Tensor, h: Tensor, gain: Tensor | None, factor: Tensor, shift: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """x (G, L, C) and h, times `gain` (G, 1, C) where there is one, added up, and the modulated
    norm of the sum. The sum is written over x, unless gradients are wanted."""
    if torch.is_grad_enabled():
        x = x + h.float() if gain is None else torch.addcmul(x, gain, h.float())
        return x, modulated_norm(x, factor, shift, dtype)
    return x, add_norm(x, h, gain, factor, shift, dtype)


class Chunk(nn.Module):
    """Blocks that the published code wraps together; only the names matter here."""

    def __init__(self, spec: TransformerSpec, blocks: int):
        super().__init__()
        self.module = nn.ModuleList(Block(spec) for _ in range(blocks))


class HeadModulation(nn.Module):
    """The last norm, whose scale and shift come from the condition vector."""

    def __init__(self, width: int):
        super().__init__()
        self.ada_lin = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))


class Infinity(nn.Module):
    """The transformer: token bits of the next scale's input to logits of its bits."""

    def __init__(self, spec: TransformerSpec, token_bits: int):
        super().__init__()
        self.spec = spec
        self.token_bits = token_bits
        self.preset_name: str | None = None  # whose weights it was given, where that is known
        self.stream: BlockStream[Block] | None = None  # set where blocks stay in host memory
        width = spec.width
        self.cfg_uncond = nn.Parameter(torch.zeros(spec.text_max, spec.text_width))
        self.pos_start = nn.Parameter(torch.zeros(1, 1, width))
        self.text_norm = TextNorm(spec.text_width)
        self.text_proj_for_sos = TextPool(spec.text_width, width)
        self.text_proj_for_ca = nn.Sequential(
            nn.Linear(spec.text_width, width), nn.GELU("tanh"), nn.Linear(width, width)
        )
        self.lvl_embed = nn.Embedding(LEVELS, width)
        self.word_embed = nn.Linear(token_bits, width)
        self.shared_ada_lin = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        self.head_nm = HeadModulation(width)
        self.head = nn.Linear(width, 2 * token_bits)
        per_chunk = spec.depth // spec.chunks
        self.block_chunks = nn.ModuleList(Chunk(spec, per_chunk) for _ in range(spec.chunks))

    @property
    def blocks(self) -> list[Block]:
        """All blocks in order."""
        return [block for chunk in self.block_chunks for block in chunk.module]  # type: ignore[union-attr]

    def in_turn(self) -> Iterator[Block]:
        """All blocks in order, each on the model's device until the next one is asked for."""
        return iter(self.blocks) if self.stream is None else self.stream.in_turn()

    @property
    def compute_dtype(self) -> torch.dtype:
        """The dtype of the matrix products, which is that of the blocks' weights."""
        return self.blocks[0].compute_dtype

    def unconditional(self, length: int) -> Tensor:
        """The learned rows that stand for no text, (length, Ct)."""
        return self.cfg_uncond[:length]

    def text_rows(self, sequences: Sequence[Tensor], length: int | None = None) -> TextRows:
        """Normalised rows of unpadded encoder features (len, Ct) a sequence, as `TextRows.pad` lays
        them."""
        return TextRows.pad([self.text_norm(s) for s in sequences], length)

    def condition_rows(self, text: TextRows) -> Condition:
        """Everything the text determines, from its normalised rows."""
        dtype = self.compute_dtype
        pool = self.text_proj_for_sos.ca
        start = pool(text).float()
        up, _, down = self.text_proj_for_ca
        rows = apply(down, apply(up, text.rows, dtype, gelu=True), dtype)
        table = apply(self.shared_ada_lin[1], F.silu(start), torch.float32)
        head = apply(self.head_nm.ada_lin[1], F.silu(start), torch.float32)
        scale, shift = head[:, None].chunk(2, dim=-1)
        shared = table.unflatten(-1, (1, 6, self.spec.width))
        modulation, memory = [], []
        for block in self.in_turn():
            modulation.append(block.modulation(shared))
            memory.append(block.ca.keys_values(rows, self.spec.heads))
        mask = None if text.mask is None else additive(text.mask, dtype)
        return Condition(start, modulation, (1 + scale, shift), memory, mask)

    def embed_start(self, condition: Condition) -> Tensor:
        """Input of the first scale, (G, 1, C) float32."""
        return condition.start[:, None] + self.pos_start.float()

    def embed_tokens(self, tokens: Tensor) -> Tensor:
        """Input of a later scale from the running sum at its size, (B, L, d) to (B, L, C)."""
        return apply(self.word_embed, tokens, self.compute_dtype).float()

    def forward_scale(
        self,
        x: Tensor,
        scale: int,
        condition: Condition,
        schedule: Scales3,
        tables: Mapping[str, Tensor],
        after_block: Mapping[int, float] | None = None,
    ) -> Tensor:
        """x (G, L, C), the input of scale `scale`, to hidden states after the last block.

        x may be written over, unless gradients are wanted: at the last scale of a large picture
        the residual stream is what takes most memory besides the cache.
        `after_block` maps the index of a block to a guidance strength: there the halves of the
        hidden states are mixed and both go on with the mixture.
        """
        level = self.lvl_embed.weight[scale].float()
        per_chunk = len(self.block_chunks[0].module)  # type: ignore[arg-type]
        for i, block in enumerate(self.in_turn()):
            if i == 0 or (self.spec.level_embed_every_chunk and i % per_chunk == 0):
                x = x + level if torch.is_grad_enabled() else x.add_(level)
            x = block(
                x,
                condition.modulation[i],
                condition.memory[i],
                condition.mask,
                schedule,
                tables,
                scale,
            )
            if after_block is not None and i in after_block:
                x = mix_halves(x, after_block[i]).repeat(2, 1, 1)
        return x

    def logits(self, x: Tensor, condition: Condition) -> Tensor:
        """Hidden states (G, L, C) to logits (G, L, d, 2), float32."""
        h = modulated_norm(x, *condition.head, torch.float32)
        out: Tensor = apply(self.head, h, torch.float32).unflatten(-1, (self.token_bits, 2))
        return out


def mix_halves(x: Tensor, strength: float) -> Tensor:
    """Guidance: strength * conditional + (1 - strength) * unconditional half, (2B, …) to (B, …)."""
    conditional, unconditional = x.chunk(2)
    return strength * conditional + (1 - strength) * unconditional
