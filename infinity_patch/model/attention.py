"""Self-attention of one scale: from hidden states to q, k, v, and from the answer back.

Works on any module with the published attribute names (`mat_qkv`, `q_bias`, `v_bias`,
`scale_mul_1H11`, `proj`), ours or the published repository's; knows nothing of what is cached.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import accumulate
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scalekv.infinity_patch.compute.kernels.bias_and_gain import bias_and_gain
from scalekv.infinity_patch.compute.kernels.queries_keys import place_queries_keys_values
from scalekv.infinity_patch.compute.processor import fused_attention_is_fast, row_slices
from scalekv.infinity_patch.compute.products import apply, is_plain, weights_dtype
from scalekv.infinity_patch.compute.quantised import QuantisedLinear
from scalekv.infinity_patch.compute.tiled_attention import tiled_attention, worthwhile
from scalekv.infinity_patch.model.rotary import Scales3, rotate, table_of_scale, turns_of_scale
from scalekv.kv.caches.layout import by_token, empty
from scalekv.kv.to_device import whole_numbers


class SelfAttentionLike(Protocol):
    """What a self-attention module must have to be run here."""

    @property
    def mat_qkv(self) -> nn.Module: ...
    @property
    def q_bias(self) -> Tensor: ...
    @property
    def v_bias(self) -> Tensor: ...
    @property
    def scale_mul_1H11(self) -> Tensor: ...
    @property
    def proj(self) -> nn.Module: ...


_prepared: WeakKeyDictionary[Any, tuple[Any, Tensor, Tensor]] = WeakKeyDictionary()
"""Per module what its parameters were when prepared, its fused bias and its heads' gains."""


def _bias_and_gain(sa: SelfAttentionLike, scale: int) -> tuple[Tensor, Tensor]:
    """(3 C,) bias of the fused projection, and (2, H, 1) float32: queries' learned scales, ones.

    Made once per module and picture, and again when a parameter was replaced or written to. What
    is written through `.data`, which no version tells of, counts from the next picture's first
    scale on.
    """
    used = (sa.q_bias, sa.v_bias, sa.scale_mul_1H11)
    if torch.is_grad_enabled() or any(t.is_inference() for t in used):  # nothing tells of writes
        return bias_and_gain(*used)
    state = [(id(t), t.data_ptr(), t._version, t.dtype, t.device) for t in used]
    known = _prepared.get(sa)
    if scale == 0 or known is None or known[0] != state:
        with torch.inference_mode(False), torch.no_grad():  # usable in and outside inference mode
            known = state, *bias_and_gain(*used)
        _prepared[sa] = known
    return known[1], known[2]


Place = Callable[[tuple[int, int, int, int], torch.dtype, torch.device], tuple[Tensor, Tensor]]
"""(shape, dtype, device) of a scale's keys -> (B, H, L, D) twice, to write keys and values into."""


def queries_keys_values(
    sa: SelfAttentionLike,
    x: Tensor,
    schedule: Scales3,
    tables: Mapping[str, Tensor],
    scale: int,
    place: Place | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """q, k, v of one scale's tokens, each (B, H, L, D), in the compute dtype.

    x is (B, L, C). q and k are normalised over D, q multiplied by the learned scale of its head,
    both rotated, all in float32, then cast once: what is cached is what attention reads. k and v
    are what `place` gave, unless gradients are wanted; None: new tensors.
    """
    heads = sa.scale_mul_1H11.numel()
    bias, gain = _bias_and_gain(sa, scale)
    if torch.is_grad_enabled():
        qkv = apply(sa.mat_qkv, x, bias=bias)
        q, k, v = qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
        table = table_of_scale(tables, schedule, scale, x.device)
        q = rotate(F.normalize(q.float(), dim=-1) * gain[0, :, None], table).to(qkv.dtype)
        k = rotate(F.normalize(k.float(), dim=-1), table).to(qkv.dtype)
        return q, k, v.contiguous()
    batch, length, width = x.shape
    dtype = weights_dtype(sa.mat_qkv) or x.dtype
    shape = (batch, heads, length, width // heads)
    lying: dict[str, Any] = {"by_token": by_token(x.device), "dtype": dtype, "device": x.device}
    q = empty(shape, **lying)
    if place is None:
        k, v = empty(shape, **lying), empty(shape, **lying)
    else:
        k, v = place(shape, dtype, x.device)
    turns = turns_of_scale(tables, schedule, scale, x.device)
    slices = list(row_slices(x)) if is_plain(sa.mat_qkv) else [slice(None)]
    with QuantisedLinear.all_written([sa.mat_qkv] * (len(slices) > 1)):
        for rows in slices:
            qkv = apply(sa.mat_qkv, x[:, rows], bias=bias).unflatten(-1, (3, heads, -1))
            into = (part[:, :, rows] for part in (q, k, v))
            place_queries_keys_values(qkv, gain, turns[rows], *into)
    return q, k, v


def raw_queries(sa: SelfAttentionLike, x: Tensor, tokens: Tensor) -> Tensor:
    """(B, H, W, D) queries of some tokens as the projection alone gives them.

    x is (B, L, C), tokens (W,) int64. Nothing is added, normalised, scaled or rotated; only the
    queries' third of the projection is computed, for these tokens.
    """
    q = apply(sa.mat_qkv, x.index_select(1, tokens), first=sa.q_bias.numel())
    queries: Tensor = q.unflatten(-1, (sa.scale_mul_1H11.numel(), -1)).transpose(1, 2)
    return queries


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Every query sees every key; softmax scale 1, since q carries the learned scale."""
    if not fused_attention_is_fast() and worthwhile(q):
        return tiled_attention(q, k, v)
    return F.scaled_dot_product_attention(q, k, v, scale=1.0)


def attends_raggedly(q: Tensor) -> bool:
    """Whether `attend_ragged` can serve queries like these: half precision on CUDA."""
    return q.is_cuda and q.dtype in (torch.float16, torch.bfloat16)


def attend_ragged(q: Tensor, k: Tensor, v: Tensor, length: int, lengths: tuple[int, ...]) -> Tensor:
    """Attention of sequences of unequal length in one kernel, nothing padded.

    Args:
        q: (N * length, D), sequence after sequence.
        k, v: (sum of lengths, D), likewise.
        length: queries of each sequence.
        lengths: tokens that each of the N sequences sees.

    Returns:
        (N * length, D).
    """
    from torch.nn.attention.varlen import varlen_attn

    ends_q, ends_k = _ends((length,) * len(lengths), q.device), _ends(lengths, q.device)
    # One head per sequence: what is a head of a batch elsewhere is a sequence here.
    out = varlen_attn(
        q.unsqueeze(1),
        k.unsqueeze(1),
        v.unsqueeze(1),
        ends_q,
        ends_k,
        length,
        max(lengths),
        scale=1.0,
    )
    assert isinstance(out, Tensor), "nothing else was asked for"
    return out.squeeze(1)


def _ends(lengths: tuple[int, ...], device: torch.device) -> Tensor:
    """(N + 1,) int32 where sequences begin and end."""
    return whole_numbers((0, *accumulate(lengths)), device, torch.int32)


def project(sa: SelfAttentionLike, out: Tensor) -> Tensor:
    """Attention output (B, H, L, D) through the output projection, (B, L, C), a fresh tensor."""
    return apply(sa.proj, out.transpose(1, 2).flatten(2))
