"""Chosen tokens, copied to where they are held: k and v in one go. Knows shapes and slots."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from scalekv.kv.kernels.operator import Kernel, Operator, pieces, power_of_two, strides

if TYPE_CHECKING:
    import triton.language as tl

_TOKENS = 32  # copied by one program


def _plain(kv: Tensor, slots: Tensor, into: Tensor) -> None:
    for x, out in zip(kv, into, strict=True):
        pick(x, slots, out)


def pick(x: Tensor, slots: Tensor, into: Tensor) -> None:
    """Writes the slots (B, H, n) of x (B, H, T, D) into `into` (B, H, n, D), directly if it can."""
    direct = into.is_contiguous() and (into.dtype, into.device) == (x.dtype, x.device)
    if not direct:
        into.copy_(picked(x, slots), non_blocking=True)
        return
    flat = x.reshape(-1, x.shape[3])
    torch.index_select(flat, 0, _rows(x, slots), out=into.view(-1, x.shape[3]))


def picked(x: Tensor, slots: Tensor) -> Tensor:
    """(B, H, n, D): the slots (B, H, n) of x (B, H, T, D), a copy."""
    batch, heads, _, dim = x.shape
    # Whole rows are copied at once; gather along the token axis would go element by element.
    return x.reshape(-1, dim).index_select(0, _rows(x, slots)).view(batch, heads, -1, dim)


def _rows(x: Tensor, slots: Tensor) -> Tensor:
    batch, heads, tokens, _ = x.shape
    first = torch.arange(batch * heads, device=x.device).view(batch, heads, 1) * tokens
    return (first + slots).flatten()


@Kernel
def _kernel(
    kv: tl.tensor,
    slots: tl.tensor,
    into: tl.tensor,
    heads: tl.tensor,
    count: tl.tensor,
    kv_pair: tl.tensor,
    kv_batch: tl.tensor,
    kv_head: tl.tensor,
    kv_token: tl.tensor,
    into_pair: tl.tensor,
    into_batch: tl.tensor,
    into_head: tl.tensor,
    into_token: tl.tensor,
    DIM: tl.constexpr,
    COLUMNS: tl.constexpr,
    TOKENS: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    batch, head = row // heads, row % heads
    places = tl.program_id(1) * TOKENS + tl.arange(0, TOKENS)
    columns = tl.arange(0, COLUMNS)
    inside = places < count
    slot = tl.load(slots + row * count + places, mask=inside, other=0)
    mask = inside[:, None] & (columns < DIM)[None, :]
    source = kv + batch * kv_batch + head * kv_head + slot[:, None] * kv_token + columns[None, :]
    target = into + batch * into_batch + head * into_head
    target += places[:, None].to(tl.int64) * into_token + columns[None, :]
    kind = into.dtype.element_ty
    tl.store(target, tl.load(source, mask=mask).to(kind), mask=mask)
    tl.store(target + into_pair, tl.load(source + kv_pair, mask=mask).to(kind), mask=mask)


def _fused(kv: Tensor, slots: Tensor, into: Tensor) -> None:
    _, batch, heads, _, dim = kv.shape
    count = slots.shape[2]
    _kernel.launch(
        (batch * heads, pieces(count, _TOKENS)),
        kv,
        slots.contiguous(),
        into,
        heads,
        count,
        *strides(kv),
        *strides(into),
        DIM=dim,
        COLUMNS=power_of_two(dim),
        TOKENS=_TOKENS,
    )


def _shapes(kv: Tensor, slots: Tensor, into: Tensor) -> None:
    return None


_gather = Operator(
    "gather_tokens(Tensor kv, Tensor slots, Tensor(a!) into) -> ()",
    plain=_plain,
    fused=_fused,
    shapes=_shapes,
    launches=1,
)


def gather_tokens(kv: Tensor, slots: Tensor, into: Tensor) -> None:
    """Writes the slots (B, h, n) int64 of kv (2, B, h, T, D) into (2, B, h, n, D), cast to its
    dtype. The two may not share memory."""
    _gather(kv, slots, into)
