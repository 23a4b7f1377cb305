"""Teacher forcing: all scales of a picture in one pass, as the transformer is trained.

The blocks run as they do in generation; only their self-attention is given all scales at once and
lets every token see its own and all coarser ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from scalekv.infinity_patch.compute.products import apply
from scalekv.infinity_patch.model.attention import project, queries_keys_values
from scalekv.infinity_patch.model.rotary import Scales3, rotary_table
from scalekv.infinity_patch.model.text_rows import TextRows
from scalekv.infinity_patch.model.transformer import (
    CrossAttention,
    Infinity,
    SelfAttention,
)
from scalekv.infinity_patch.schedules import grid_of
from scalekv.kv.schedule import Schedule


def weigh(scores: Tensor, v: Tensor) -> Tensor:
    """Softmax of the scores, applied to the values.

    Written out: for these short sequences it trains two to three times as fast on a CPU as the
    fused kernel, whose backward is slow there.
    """
    return scores.softmax(-1).to(v.dtype) @ v


def use_block_causal_attention(ends: Sequence[int], levels: Tensor) -> None:
    """From now on, in this process, self-attention takes all scales at once.

    `ends` are the ends of the scales in the full sequence, `levels` the scale of each token; a
    shorter sequence ends at one of the ends.
    """

    def forward(
        self: SelfAttention,
        x: Tensor,
        attn_bias_or_two_vector: Tensor | None = None,
        attn_fn: object = None,
        scale_schedule: Scales3 = (),
        rope2d_freqs_grid: Mapping[str, Tensor] | None = None,
        scale_ind: int = 0,
    ) -> Tensor:
        assert rope2d_freqs_grid is not None
        q, k, v = queries_keys_values(self, x, scale_schedule, rope2d_freqs_grid, scale_ind)
        last = [0, *(end for end in ends if end < x.shape[1])][-1]
        mask = torch.where(levels[:last, None] >= levels[None, :last], 0.0, -torch.inf).to(q.dtype)
        coarse = weigh(q[:, :, :last] @ k[:, :, :last].mT + mask, v[:, :, :last])
        newest = weigh(q[:, :, last:] @ k.mT, v)
        return project(self, torch.cat([coarse, newest], dim=2))

    SelfAttention.forward = forward  # type: ignore[method-assign]


def use_attention_by_scale(ends: Sequence[int]) -> None:
    """The same with a fused kernel a scale, which is given what the scale sees and needs no mask.

    Nothing of the size of all scores is ever held, so that long sequences train on a GPU.
    """

    def forward(
        self: SelfAttention,
        x: Tensor,
        attn_bias_or_two_vector: Tensor | None = None,
        attn_fn: object = None,
        scale_schedule: Scales3 = (),
        rope2d_freqs_grid: Mapping[str, Tensor] | None = None,
        scale_ind: int = 0,
    ) -> Tensor:
        assert rope2d_freqs_grid is not None
        q, k, v = queries_keys_values(self, x, scale_schedule, rope2d_freqs_grid, scale_ind)
        parts, begin = [], 0
        for end in ends:
            if end > x.shape[1]:
                break
            seen = slice(0, end)
            parts.append(
                F.scaled_dot_product_attention(
                    q[:, :, begin:end], k[:, :, seen], v[:, :, seen], scale=1.0
                )
            )
            begin = end
        return project(self, torch.cat(parts, dim=2))

    SelfAttention.forward = forward  # type: ignore[method-assign]


def use_written_out_cross_attention() -> None:
    """From now on, in this process, attention on the text goes through `weigh`."""

    def forward(
        self: CrossAttention, x: Tensor, memory: tuple[Tensor, Tensor], mask: Tensor | None
    ) -> Tensor:
        q = apply(self.mat_q, x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = memory
        scores = q @ k.mT * q.shape[-1] ** -0.5
        if mask is not None:
            scores = scores + mask
        return apply(self.proj, weigh(scores, v).transpose(1, 2).flatten(2))

    CrossAttention.forward = forward  # type: ignore[method-assign]


class Teacher:
    """The model seen as training sees it.

    `weights` (L,) say how much a token counts in the loss: a scale of n tokens weighs as the square
    root of n does, since the few coarse tokens decide what is drawn. `fused`: attention by fused
    kernels, as long sequences and GPUs need it, instead of written out.
    """

    def __init__(
        self, model: Infinity, schedule: Schedule, device: torch.device, fused: bool = False
    ):
        self.model = model
        self.schedule = schedule
        self.ends = [schedule.before(k) + n for k, n in enumerate(schedule.tokens)]
        self.table = rotary_table(schedule.scales, grid_of(schedule), model.spec.head_dim).to(
            device
        )
        levels = [k for k, n in enumerate(schedule.tokens) for _ in range(n)]
        self.levels = torch.tensor(levels, device=device)
        self.weights = torch.tensor([schedule.tokens[k] ** -0.5 for k in levels], device=device)
        if fused:
            use_attention_by_scale(self.ends)
        else:
            use_block_causal_attention(self.ends, self.levels)
            use_written_out_cross_attention()

    def compile(self) -> None:
        """Compile the blocks; worth it from a few hundred steps on."""
        for block in self.model.blocks:
            block.compile(dynamic=False)

    def logits(self, text: TextRows, inputs: Tensor) -> Tensor:
        """Logits (B, L, d, 2) of the first scales.

        `inputs` (B, L - 1, d) are the running sums that later scales see, scale after scale.
        """
        model = self.model
        condition = model.condition_rows(text)
        x = torch.cat([model.embed_start(condition), model.embed_tokens(inputs)], dim=1)
        length = x.shape[1]
        x = x + model.lvl_embed(self.levels[:length])
        one = ((1, 1, length),)
        tables = {str(one): self.table[:, :, :, :, :length]}
        parts = zip(model.blocks, condition.modulation, condition.memory, strict=True)
        for block, modulation, memory in parts:
            x = block(x, modulation, memory, condition.mask, one, tables, 0)
        return model.logits(x, condition)
