"""From a projection to queries, keys and values where attention reads them: made one long, scaled,
turned and cast. Knows shapes and angles; nothing of weights or caches."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from scalekv.kv.kernels.operator import Kernel, Operator, power_of_two, strides

if TYPE_CHECKING:
    import triton.language as tl

SHORTEST = 1e-12  # vectors shorter than this are not made longer; `F.normalize`'s default


def _plain(qkv: Tensor, gain: Tensor, turns: Tensor, q: Tensor, k: Tensor, v: Tensor) -> None:
    # Turning keeps the length, so that length and gain are one factor a vector, applied last.
    x = qkv[:, :, :2].float()
    factor = gain / torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp_min_(SHORTEST)
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)))
    turned = torch.view_as_real(pairs * turns.unsqueeze(1)).flatten(-2).mul_(factor)
    queries, keys = turned.transpose(1, 3).unbind(2)
    q.copy_(queries)
    k.copy_(keys)
    v.copy_(qkv[:, :, 2].transpose(1, 2))


@Kernel
def _kernel(
    qkv: tl.tensor,
    gain: tl.tensor,
    turns: tl.tensor,
    q: tl.tensor,
    k: tl.tensor,
    v: tl.tensor,
    length: tl.tensor,
    heads: tl.tensor,
    qkv_batch: tl.tensor,
    qkv_token: tl.tensor,
    qkv_third: tl.tensor,
    qkv_head: tl.tensor,
    q_batch: tl.tensor,
    q_head: tl.tensor,
    q_token: tl.tensor,
    k_batch: tl.tensor,
    k_head: tl.tensor,
    k_token: tl.tensor,
    v_batch: tl.tensor,
    v_head: tl.tensor,
    v_token: tl.tensor,
    shortest: tl.tensor,
    DIM: tl.constexpr,
    COLUMNS: tl.constexpr,
    HEADS: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    batch, token = row // length, row % length
    head = tl.arange(0, HEADS)[:, None]
    column = tl.arange(0, COLUMNS)[None, :]
    inside = (head < heads) & (column < DIM)
    angle = 2 * tl.arange(0, COLUMNS // 2)[None, :]
    cos = tl.load(turns + token * DIM + angle, mask=angle < DIM, other=1.0)
    sin = tl.load(turns + token * DIM + angle + 1, mask=angle < DIM, other=0.0)
    source = qkv + batch * qkv_batch + token * qkv_token + head * qkv_head + column
    kind = q.dtype.element_ty

    x = tl.load(source, mask=inside, other=0.0).to(tl.float32)
    factor = tl.load(gain + head, mask=head < heads, other=0.0)
    factor = factor / tl.maximum(tl.sqrt(tl.sum(x * x, 1))[:, None], shortest)
    first, second = tl.split(tl.reshape(x, (HEADS, COLUMNS // 2, 2)))
    turned = tl.join((first * cos - second * sin) * factor, (first * sin + second * cos) * factor)
    target = q + batch * q_batch + token * q_token + head * q_head + column
    tl.store(target, tl.reshape(turned, (HEADS, COLUMNS)).to(kind), mask=inside)

    x = tl.load(source + qkv_third, mask=inside, other=0.0).to(tl.float32)
    factor = 1.0 / tl.maximum(tl.sqrt(tl.sum(x * x, 1))[:, None], shortest)
    first, second = tl.split(tl.reshape(x, (HEADS, COLUMNS // 2, 2)))
    turned = tl.join((first * cos - second * sin) * factor, (first * sin + second * cos) * factor)
    target = k + batch * k_batch + token * k_token + head * k_head + column
    tl.store(target, tl.reshape(turned, (HEADS, COLUMNS)).to(kind), mask=inside)

    target = v + batch * v_batch + token * v_token + head * v_head + column
    tl.store(target, tl.load(source + 2 * qkv_third, mask=inside), mask=inside)


def _fused(qkv: Tensor, gain: Tensor, turns: Tensor, q: Tensor, k: Tensor, v: Tensor) -> None:
    batch, length, _, heads, dim = qkv.shape
    assert turns.is_contiguous(), turns.stride()
    _kernel.launch(
        (batch * length,),
        qkv,
        gain,
        torch.view_as_real(turns),
        q,
        k,
        v,
        length,
        heads,
        *strides(qkv),
        *strides(q),
        *strides(k),
        *strides(v),
        SHORTEST,
        DIM=dim,
        COLUMNS=power_of_two(dim),
        HEADS=power_of_two(heads),
        num_warps=8 if heads * dim > 1024 else 4,
    )


def _shapes(qkv: Tensor, gain: Tensor, turns: Tensor, q: Tensor, k: Tensor, v: Tensor) -> None:
    return None


_place = Operator(
    "place_queries_keys_values(Tensor qkv, Tensor gain, Tensor turns, Tensor(a!) q, Tensor(b!) k,"
    " Tensor(c!) v) -> ()",
    plain=_plain,
    fused=_fused,
    shapes=_shapes,
    launches=1,
)


def place_queries_keys_values(
    qkv: Tensor, gain: Tensor, turns: Tensor, q: Tensor, k: Tensor, v: Tensor
) -> None:
    """Writes q, k and v, (B, H, L, D) in whatever order they lie, from a projection's answer.

    Args:
        qkv: (B, L, 3, H, D): queries, keys, values.
        gain: (2, H, 1) float32: the queries' learned scale a head, and ones for the keys.
        turns: (L, 1, D / 2) complex, of length one: each token's angles.

    Queries and keys are divided by their length over D, multiplied by the gain and turned, pair by
    pair, all in float32; values are as they come.
    """
    _place(qkv, gain, turns, q, k, v)
