"""The attention that some queries pay to every cached token. Knows q and k; nothing of policies.

Keys are turned to float32 in registers, a tile at a time: no copy of them is made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from scalekv.kv.autocast import without_autocast
from scalekv.kv.kernels.operator import Kernel, Operator, pieces, power_of_two, strides

if TYPE_CHECKING:
    import triton.language as tl

_CHUNK = 1024  # keys turned to float32 at a time by the plain formula, which bounds the copy
_KEYS = 64  # of a program
_QUERIES = 16  # multiplied at a time, the fewest that matrix units take
_HALF = (torch.float16, torch.bfloat16)


def _plain_mass(q: Tensor, k: Tensor, tokens: Tensor | None) -> Tensor:
    if tokens is not None:
        q = q.index_select(2, tokens)
    batch, heads, observers, _ = q.shape
    length = k.shape[2]
    # Autocast would turn the product back to half precision.
    with without_autocast(q):
        queries = q.float()
        logits = queries.new_empty(batch, heads, observers, length)
        for start in range(0, length, _CHUNK):
            keys = k[:, :, start : start + _CHUNK].float()
            logits[..., start : start + _CHUNK] = queries @ keys.mT
        return logits.softmax(dim=-1).sum(dim=2)


def _plain_logits(query: Tensor, k: Tensor) -> Tensor:
    with without_autocast(query):
        parts = [(query @ keys.float().mT).squeeze(2) for keys in k.split(_CHUNK, dim=2)]
        return torch.cat(parts, dim=2)


@Kernel
def _logits(
    q: tl.tensor,
    k: tl.tensor,
    tokens: tl.tensor,
    logits: tl.tensor,
    tops: tl.tensor,
    sums: tl.tensor,
    heads: tl.tensor,
    count_queries: tl.tensor,
    length: tl.tensor,
    count_parts: tl.tensor,
    q_batch: tl.tensor,
    q_head: tl.tensor,
    q_token: tl.tensor,
    k_batch: tl.tensor,
    k_head: tl.tensor,
    k_token: tl.tensor,
    CHOSEN: tl.constexpr,
    SOFTMAX: tl.constexpr,
    PRECISION: tl.constexpr,
    DIM: tl.constexpr,
    COLUMNS: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
) -> None:
    """Logits of all queries for one tile of keys, and each query's softmax over the tile alone:
    its largest logit and the sum of the others' weights beside it."""
    row = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    batch, head = row // heads, row % heads
    columns = tl.arange(0, COLUMNS)
    wide = (columns < DIM)[None, :]
    places = part * KEYS + tl.arange(0, KEYS)
    inside = places < length
    keys = tl.load(
        k + batch * k_batch + head * k_head + places[:, None] * k_token + columns[None, :],
        mask=inside[:, None] & wide,
        other=0.0,
    ).to(tl.float32)
    for first in range(0, count_queries, QUERIES):
        numbers = first + tl.arange(0, QUERIES)
        real = numbers < count_queries
        token = numbers.to(tl.int64)
        if CHOSEN:
            token = tl.load(tokens + numbers, mask=real, other=0)
        queries = tl.load(
            q + batch * q_batch + head * q_head + token[:, None] * q_token + columns[None, :],
            mask=real[:, None] & wide,
            other=0.0,
        ).to(tl.float32)
        product = tl.dot(queries, tl.trans(keys), input_precision=PRECISION)
        lines = row * count_queries + numbers
        tl.store(
            logits + lines[:, None] * length + places[None, :],
            product,
            mask=real[:, None] & inside[None, :],
        )
        if SOFTMAX:
            product = tl.where(inside[None, :], product, -float("inf"))
            top = tl.max(product, 1)
            tl.store(tops + lines * count_parts + part, top, mask=real)
            total = tl.sum(tl.exp(product - top[:, None]), 1)
            tl.store(sums + lines * count_parts + part, total, mask=real)


@Kernel
def _mass(
    logits: tl.tensor,
    tops: tl.tensor,
    sums: tl.tensor,
    mass: tl.tensor,
    count_queries: tl.tensor,
    length: tl.tensor,
    count_parts: tl.tensor,
    PARTS: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
) -> None:
    """Softmax weights of one tile of keys, summed over the queries."""
    row = tl.program_id(0).to(tl.int64)
    places = tl.program_id(1) * KEYS + tl.arange(0, KEYS)
    inside = places < length
    parts = tl.arange(0, PARTS)
    total = tl.zeros((KEYS,), tl.float32)
    for first in range(0, count_queries, QUERIES):
        numbers = first + tl.arange(0, QUERIES)
        real = numbers < count_queries
        lines = row * count_queries + numbers
        where = lines[:, None] * count_parts + parts[None, :]
        known = real[:, None] & (parts < count_parts)[None, :]
        highest = tl.load(tops + where, mask=known, other=-float("inf"))
        top = tl.where(real, tl.max(highest, 1), 0.0)
        weights = tl.load(sums + where, mask=known, other=0.0)
        denominator = tl.sum(weights * tl.exp(highest - top[:, None]), 1)
        denominator = tl.where(real, denominator, 1.0)
        shares = tl.exp(
            tl.load(
                logits + lines[:, None] * length + places[None, :],
                mask=real[:, None] & inside[None, :],
                other=-float("inf"),
            )
            - top[:, None]
        )
        total += tl.sum(shares / denominator[:, None], 0)
    tl.store(mass + row * length + places, total, mask=inside)


def _launch_logits(
    q: Tensor, k: Tensor, tokens: Tensor | None, parts: tuple[Tensor, Tensor] | None
) -> Tensor:
    """(B, H, W, T) float32; `parts` are filled where they are given."""
    batch, heads, length, dim = k.shape
    observers = q.shape[2] if tokens is None else len(tokens)
    logits = torch.empty((batch, heads, observers, length), dtype=torch.float32, device=k.device)
    tops, sums = (logits, logits) if parts is None else parts
    # Half-precision numbers lose nothing in TF32, so that matrix units multiply them exactly.
    exact = "tf32" if q.dtype in _HALF and k.dtype in _HALF else "ieee"
    _logits.launch(
        (batch * heads, pieces(length, _KEYS)),
        q,
        k,
        q if tokens is None else tokens,
        logits,
        tops,
        sums,
        heads,
        observers,
        length,
        pieces(length, _KEYS),
        *strides(q),
        *strides(k),
        CHOSEN=tokens is not None,
        SOFTMAX=parts is not None,
        PRECISION=exact,
        DIM=dim,
        COLUMNS=max(power_of_two(dim), 16),
        QUERIES=_QUERIES,
        KEYS=_KEYS,
    )
    return logits


def _fused_mass(q: Tensor, k: Tensor, tokens: Tensor | None) -> Tensor:
    batch, heads, length, _ = k.shape
    observers = q.shape[2] if tokens is None else len(tokens)
    parts = pieces(length, _KEYS)
    lines = (batch, heads, observers, parts)
    tops, sums = torch.empty((2, *lines), dtype=torch.float32, device=k.device)
    logits = _launch_logits(q, k, tokens, (tops, sums))
    mass = torch.empty((batch, heads, length), dtype=torch.float32, device=k.device)
    _mass.launch(
        (batch * heads, parts),
        logits,
        tops,
        sums,
        mass,
        observers,
        length,
        parts,
        PARTS=power_of_two(parts),
        QUERIES=_QUERIES,
        KEYS=_KEYS,
    )
    return mass


def _fused_logits(query: Tensor, k: Tensor) -> Tensor:
    return _launch_logits(query, k, None, None).squeeze(2)


def _mass_shape(q: Tensor, k: Tensor, tokens: Tensor | None) -> Tensor:
    return k.new_empty(k.shape[:3], dtype=torch.float32)


def _logits_shape(query: Tensor, k: Tensor) -> Tensor:
    return k.new_empty(k.shape[:3], dtype=torch.float32)


_attention_mass = Operator(
    "attention_mass(Tensor q, Tensor k, Tensor? tokens) -> Tensor",
    plain=_plain_mass,
    fused=_fused_mass,
    shapes=_mass_shape,
    launches=2,
)
_query_logits = Operator(
    "query_logits(Tensor query, Tensor k) -> Tensor",
    plain=_plain_logits,
    fused=_fused_logits,
    shapes=_logits_shape,
    launches=1,
)


def attention_mass(q: Tensor, k: Tensor, tokens: Tensor | None = None) -> Tensor:
    """(B, H, T) float32: attention each cached token gets, summed over the queries.

    Args:
        q: (B, H, L, D) queries, scaled: softmax(q k^T) is their attention.
        k: (B, H, T, D) everything cached.
        tokens: (W,) int64, which of the queries observe; None: all.

    Memory is that of two (B, H, W, T) tensors, whatever the dtype of k.
    """
    mass: Tensor = _attention_mass(q, k, tokens)
    return mass


def logit_sums(q: Tensor, k: Tensor) -> Tensor:
    """(B, H, T) float32: q k^T summed over the queries, with no softmax.

    Args:
        q: (B, H, W, D) the observing queries.
        k: (B, H, T, D) everything cached.
    """
    # the sum of products is the product of the sum
    sums: Tensor = _query_logits(q.float().sum(dim=2, keepdim=True), k)
    return sums
