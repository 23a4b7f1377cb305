"""A stand-in for a model that the published repository builds: its interface, none of its code.

Same attribute names and the same calls: blocks call their attention partly by position and multiply
what it returns in place, rotary tables come as one dictionary for all schedules, kv_caching is
called on every module before each picture and after it, but not after an exception.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scalekv.infinity_patch.model.quantiser import (
    codes,
    map_to_tokens,
    resize,
    tokens_to_map,
    vae_sizes,
)
from scalekv.infinity_patch.model.rotary import Scales3, rotary_table
from scalekv.infinity_patch.model.sampling import BitSampler
from scalekv.infinity_patch.model.scale_loop import Guidance, conditions, to_uint8
from scalekv.infinity_patch.model.transformer import (
    Block,
    Condition,
    Infinity,
    mix_halves,
)
from scalekv.infinity_patch.schedules import PIXEL_CLASSES, full_schedule, ratios

PADDED_TO = 128
"""The published tables are padded with zeros to a multiple of this."""


def scales3(ratio: str, pixels: str = "1M") -> list[tuple[int, int, int]]:
    """A schedule as the published code passes it."""
    return [(1, h, w) for h, w in full_schedule(ratio).scales[: PIXEL_CLASSES[pixels]]]


def all_tables(head_dim: int) -> dict[str, Tensor]:
    """Every schedule's table, which is that of the 1M schedule of its ratio."""
    tables = {}
    for ratio in ratios():
        whole = full_schedule(ratio)
        table = rotary_table(whole.scales, whole.scales[-1], head_dim)
        table = F.pad(table, (0, 0, 0, -table.shape[4] % PADDED_TO))
        for pixels in PIXEL_CLASSES:
            tables[str(tuple(scales3(ratio, pixels)))] = table
    return tables


def plain_norm(x: Tensor) -> Tensor:
    """Layer norm over the last axis without gain or bias."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


class Attention(nn.Module):
    """Self-attention that keeps everything, by the plain rule, in float32."""

    def __init__(self, ours: nn.Module) -> None:
        super().__init__()
        for name in ("mat_qkv", "proj", "q_bias", "v_bias", "scale_mul_1H11"):
            setattr(self, name, getattr(ours, name))
        self.register_buffer("zero_k_bias", torch.zeros_like(ours.get_parameter("q_bias")))
        self.caching = False
        self.cached_k: Tensor | None = None
        self.cached_v: Tensor | None = None

    def kv_caching(self, enable: bool) -> None:
        self.caching = enable
        self.cached_k = self.cached_v = None

    def forward(
        self,
        x: Tensor,
        attn_bias_or_two_vector: Any,
        attn_fn: Any = None,
        scale_schedule: Any = None,
        rope2d_freqs_grid: Any = None,
        scale_ind: int = 0,
    ) -> Tensor:
        me: Any = self
        heads = me.scale_mul_1H11.numel()
        bias = torch.cat([me.q_bias, me.zero_k_bias, me.v_bias])
        qkv = F.linear(x.to(me.mat_qkv.weight.dtype), me.mat_qkv.weight, bias).float()
        q, k, v = qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
        start = sum(h * w for _, h, w in scale_schedule[:scale_ind])
        table = rope2d_freqs_grid[str(tuple(scale_schedule))][..., start : start + x.shape[1], :]
        q = F.normalize(q, dim=-1) * me.scale_mul_1H11.float().clamp_max(4.605170186).exp()
        q, k = (self._turned(t, table) for t in (q, F.normalize(k, dim=-1)))
        if self.caching:
            if self.cached_k is not None and self.cached_v is not None:
                k, v = torch.cat([self.cached_k, k], 2), torch.cat([self.cached_v, v], 2)
            self.cached_k, self.cached_v = k, v
        weights = (q @ k.transpose(-1, -2)).softmax(-1)
        out = (weights @ v).transpose(1, 2).flatten(2)
        answer: Tensor = me.proj(out.to(me.proj.weight.dtype))
        return answer

    @staticmethod
    def _turned(x: Tensor, table: Tensor) -> Tensor:
        turns = torch.complex(table[0, 0], table[1, 0])
        pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
        return torch.view_as_real(pairs * turns).flatten(-2)


class StandInBlock(nn.Module):
    """A block that calls its attention as the published one does."""

    def __init__(self, ours: Block) -> None:
        super().__init__()
        self.sa = Attention(ours.sa)
        self.ca, self.ffn, self.ca_norm, self.ada_gss = (
            ours.ca,
            ours.ffn,
            ours.ca_norm,
            ours.ada_gss,
        )

    def forward(
        self,
        x: Tensor,
        cond_BD: Tensor,
        ca_kv: Any,
        attn_bias_or_two_vector: Any,
        attn_fn: Any = None,
        scale_schedule: Any = None,
        rope2d_freqs_grid: Any = None,
        scale_ind: int = 0,
    ) -> Tensor:
        g1, g2, s1, s2, b1, b2 = (self.ada_gss + cond_BD).float().unbind(2)
        h = self.sa(
            plain_norm(x).mul(s1 + 1).add_(b1),
            attn_bias_or_two_vector,
            attn_fn,
            scale_schedule,
            rope2d_freqs_grid,
            scale_ind=scale_ind,
        )
        x = x + h.mul_(g1.to(h.dtype))
        weight, bias = self.ca_norm.weight.float(), self.ca_norm.bias.float()
        x = x + self.ca(F.layer_norm(x, x.shape[-1:], weight, bias, 1e-6), *ca_kv)
        dtype = self.ffn.fc1.weight.dtype
        out: Tensor = x + self.ffn((plain_norm(x).mul(s2 + 1).add_(b2)).to(dtype)).mul(g2)
        return out


class StandInChunk(nn.Module):
    """Blocks as the published code wraps them."""

    def __init__(self, blocks: list[StandInBlock]) -> None:
        super().__init__()
        self.module = nn.ModuleList(blocks)


class OfficialInfinity(nn.Module):
    """A model object with the published attributes, around the weights of one of ours."""

    def __init__(self, ours: Infinity) -> None:
        super().__init__()
        self.__dict__["ours"] = ours  # no sub-module: its attention is not this model's
        self.unregistered_blocks = [StandInBlock(block) for block in ours.blocks]
        per_chunk = ours.spec.depth // ours.spec.chunks
        starts = range(0, ours.spec.depth, per_chunk)
        self.block_chunks = nn.ModuleList(
            StandInChunk(self.unregistered_blocks[i : i + per_chunk]) for i in starts
        )
        self.rope2d_freqs_grid = all_tables(ours.spec.head_dim)
        self.fail_at: tuple[int, int] | None = None

    @torch.no_grad()
    def autoregressive_infer_cfg(
        self,
        *,
        scale_schedule: Scales3,
        label_B_or_BLT: Tensor | tuple[Tensor, list[int], Tensor, int],
        g_seed: int,
        cfg_list: list[float],
        tau_list: list[float],
        gt_leak: int = 0,
        gt_ls_Bl: list[Tensor] | None = None,
        **_: Any,
    ) -> tuple[Tensor, list[Tensor], Tensor]:
        """Codes, logits of every scale, and a picture in BGR (1, H, W, 3).

        The text is (len, C), or as published with lengths and ends; of the first `gt_leak` scales
        the bits are given, (1, 1, h, w, b)."""
        guidance = Guidance(tuple(cfg_list), tuple(tau_list))
        ours: Infinity = self.__dict__["ours"]
        text = label_B_or_BLT if isinstance(label_B_or_BLT, Tensor) else label_B_or_BLT[0]
        condition = conditions(ours, [text], None, guidance)
        self.__dict__["condition"] = condition
        for block in self.unregistered_blocks:
            block.sa.kv_caching(True)
        forced = (gt_ls_Bl or [])[:gt_leak]
        found = self._scales(ours, condition, scale_schedule, guidance, g_seed, forced)
        for block in self.unregistered_blocks:
            block.sa.kv_caching(False)
        picture = to_uint8(found[0][:, :3].clamp(-1, 1)).flip(-1)
        return (*found, picture)

    def get_logits(self, h: Tensor, cond_BD: Tensor) -> Tensor:
        """(G, L, C) to (G, L, 2 d)."""
        condition: Condition = self.__dict__["condition"]
        assert torch.equal(cond_BD, condition.start)
        ours: Infinity = self.__dict__["ours"]
        return ours.logits(h, condition).flatten(2)

    def _scales(
        self,
        ours: Infinity,
        condition: Condition,
        schedule: Scales3,
        guidance: Guidance,
        seed: int,
        forced: list[Tensor],
    ) -> tuple[Tensor, list[Tensor]]:
        sampler = BitSampler([seed], 0.97)
        sizes = vae_sizes([(h, w) for _, h, w in schedule], False)
        x, total, seen = ours.embed_start(condition), torch.zeros(()), []
        table = ours.shared_ada_lin(condition.start).unflatten(-1, (1, 6, ours.spec.width))
        for si, (_, h, w) in enumerate(schedule):
            x = x + ours.lvl_embed.weight[si].float()
            for i, block in enumerate(self.unregistered_blocks):
                if self.fail_at == (si, i):
                    raise RuntimeError("stopped in the middle of a picture")
                memory = (condition.memory[i], condition.mask)
                x = block(x, table, memory, None, None, schedule, self.rope2d_freqs_grid, si)
            both = self.get_logits(x, condition.start).unflatten(-1, (-1, 2))
            logits = mix_halves(both / guidance.tau[si], guidance.cfg[si])
            seen.append(logits)
            drawn = sampler(si, logits).unflatten(1, (h, w))
            bits = forced[si][:, 0] if si < len(forced) else drawn
            total = total + resize(codes(tokens_to_map(bits, False)), sizes[-1])
            if si + 1 < len(schedule):
                tokens = map_to_tokens(resize(total, sizes[si + 1]), False)
                x = ours.embed_tokens(tokens).repeat(2, 1, 1)
        return total, seen
