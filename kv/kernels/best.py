"""The slots of the highest scores. Knows numbers only.

A sort would move every score to find a threshold; the kernel finds the threshold itself, bit by
bit, while a row of scores stays in registers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from scalekv.kv.kernels.operator import Kernel, Operator, power_of_two

if TYPE_CHECKING:
    import triton.language as tl

LONGEST = 1 << 14  # scores of a row that registers can hold; longer rows are sorted


def _plain(scores: Tensor, count: int) -> Tensor:
    order = scores.argsort(dim=-1, descending=True, stable=True)
    return order[..., :count].sort(dim=-1).values


@Kernel
def _kernel(
    scores: tl.tensor,
    slots: tl.tensor,
    count: tl.tensor,
    length: tl.tensor,
    LOWEST: tl.constexpr,
    ROW: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    places = tl.arange(0, ROW)
    inside = places < length
    score = tl.load(scores + row * length + places, mask=inside, other=0.0) + 0.0  # -0 is 0
    bits = score.to(tl.int32, bitcast=True)
    # whole numbers in the order of the scores they stand for; NaN is the highest, as torch has it
    order = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    order = tl.where(score == score, order, 0x7FFFFFFF)
    # the highest threshold that at least `count` reach: first its sign, then the other bits
    threshold = tl.where(tl.sum((inside & (order >= 0)).to(tl.int32), 0) >= count, 0, LOWEST)
    for step in range(0, 31):
        higher = threshold + (1 << (30 - step))
        reached = tl.sum((inside & (order >= higher)).to(tl.int32), 0)
        threshold = tl.where(reached >= count, higher, threshold)
    above = inside & (order > threshold)
    equal = (inside & (order == threshold)).to(tl.int32)
    room = count - tl.sum(above.to(tl.int32), 0)
    chosen = above | ((equal > 0) & (tl.cumsum(equal, 0) <= room))
    target = tl.cumsum(chosen.to(tl.int32), 0) - 1
    tl.store(slots + row * count + target, places.to(tl.int64), mask=chosen)


def _fused(scores: Tensor, count: int) -> Tensor:
    length = scores.shape[-1]
    if length > LONGEST or scores.dtype != torch.float32:
        return _plain(scores, count)
    rows = scores.contiguous().view(-1, length)
    slots = torch.empty((*scores.shape[:-1], count), dtype=torch.int64, device=scores.device)
    row = max(power_of_two(length), 128)
    _kernel.launch(
        (len(rows),),
        rows,
        slots,
        count,
        length,
        LOWEST=-(2**31),
        ROW=row,
        num_warps=min(max(row // 512, 4), 16),
    )
    return slots


def _shapes(scores: Tensor, count: int) -> Tensor:
    return scores.new_empty((*scores.shape[:-1], count), dtype=torch.int64)


_best_slots = Operator(
    "best_slots(Tensor scores, int count) -> Tensor",
    plain=_plain,
    fused=_fused,
    shapes=_shapes,
    launches=1,
)


def best_slots(scores: Tensor, count: int) -> Tensor:
    """(B, H, count) int64 ascending: the slots of the highest scores; ties go to earlier slots."""
    slots: Tensor = _best_slots(scores, count)
    return slots
