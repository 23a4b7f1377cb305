"""MapPeaks in a picture decoder's maps: how they are measured, and what keeps them small.

A group norm divides the channels of a group by their spread over the whole map, so a decoder can
steer the contrast of a picture by one enormous value at one place; with one channel a group, as at
the largest size here, every channel can. What is drawn at that place is wrong: a neon fringe or
speck (arXiv 1912.04958, section 2, calls the same thing a droplet). Knows group norms; nothing of
pictures or bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

LIMIT = 10.0  # spreads from the mean: a part of ten by ten pixels, alone in 128 x 128, has 12.8


def standardised(x: Tensor, groups: int) -> Tensor:
    """Maps (B, C, H, W) as a norm of `groups` groups makes them, (B, groups, values a group)."""
    grouped = x.float().unflatten(1, (groups, -1)).flatten(2)
    spread, mean = torch.std_mean(grouped, -1, correction=0, keepdim=True)
    out: Tensor = (grouped - mean) / (spread + 1e-6)
    return out


def excess(x: Tensor, groups: int) -> Tensor:
    """How far values lie beyond LIMIT: squared, summed over a group, meaned over all; a scalar."""
    beyond = (standardised(x, groups).abs() - LIMIT).clamp_min(0)
    return beyond.square().sum(-1).mean()


class MapPeaks:
    """The excess that the norms of a decoder met since it was last asked for."""

    def __init__(self) -> None:
        self._met: list[Tensor] = []

    def add(self, x: Tensor, groups: int) -> None:
        """Take the input of one norm into account."""
        self._met.append(excess(x, groups))

    def take(self) -> Tensor:
        """The mean over norms, a scalar; what was met is forgotten."""
        mean = torch.stack(self._met).mean()
        self._met.clear()
        return mean


@contextmanager
def watched(decoder: nn.Module) -> Iterator[MapPeaks]:
    """Measure what the group norms of `decoder` are given inside the block."""
    peaks = MapPeaks()

    def before(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(norm, nn.GroupNorm)
        peaks.add(inputs[0], norm.num_groups)

    hooks = [
        module.register_forward_pre_hook(before)
        for module in decoder.modules()
        if isinstance(module, nn.GroupNorm)
    ]
    try:
        yield peaks
    finally:
        for hook in hooks:
            hook.remove()
