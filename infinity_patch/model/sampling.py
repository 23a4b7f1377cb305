"""Logits to bits, with one random stream per picture. Knows nothing of the transformer.

The stream is the published code's for a single picture: one Exponential(1) draw per class,
token-major, then bit, from a CPU generator seeded once per picture; the class with the largest
probability / draw wins (what `torch.multinomial` computes). So a seed means the same on every
device, alone or in a batch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import torch
from torch import Tensor

from scalekv.kv.schedule import Schedule


def probabilities(logits: Tensor, top_p: float) -> Tensor:
    """Probabilities (…, 2) of the two classes of every bit, after nucleus cutting.

    The smaller class is dropped where its probability is at most 1 - top_p; top_p 0 cuts nothing.
    """
    if top_p > 0:
        smaller, index = logits.softmax(-1).min(-1, keepdim=True)
        # of two equal classes only the first found is the smaller one, so one always stays
        drop = torch.zeros_like(logits, dtype=torch.bool)
        drop.scatter_(-1, index, smaller <= 1 - top_p)
        logits = logits.masked_fill(drop, -torch.inf)
    return logits.softmax(-1)


def bits_drawn(logits: Tensor, top_p: float, noise: Tensor) -> Tensor:
    """Bits (…) uint8 of logits and Exponential(1) noise, both (…, 2)."""
    p = probabilities(logits.float(), top_p)
    return (p / noise.to(p.device, non_blocking=True)).argmax(-1).to(torch.uint8)


def all_finite(logits: Tensor) -> Tensor:
    """(B,) bool: whether a picture's logits (B, …) all are."""
    return logits.isfinite().flatten(1).all(1)


class BitSampler:
    """Draws the bits of pictures, each from its own stream."""

    def __init__(self, seeds: Sequence[int], top_p: float):
        self.top_p = top_p
        self.generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        self._ahead: deque[Tensor] = deque()
        self.finite: Tensor | None = None
        """(B,) bool where the logits are: whether all that each picture was drawn from were finite.
        None before the first. Asked for when a picture is done: reading it waits for the device."""

    def __call__(self, scale: int, logits: Tensor) -> Tensor:
        """Logits (B, L, d, 2), one picture per seed, to bits (B, L, d) uint8."""
        assert len(logits) == len(self.generators), (len(logits), len(self.generators))
        finite = all_finite(logits)
        self.finite = finite if self.finite is None else self.finite & finite
        noise = self._ahead.popleft() if self._ahead else self._drawn(logits.shape)
        return bits_drawn(logits, self.top_p, noise)

    def draw_ahead(self, schedule: Schedule, bits: int, device: torch.device) -> list[Tensor]:
        """Draws at once what all scales of a schedule will need, `bits` a token. For a CUDA device
        into pinned memory, so that neither it nor the host waits. The streams are the same.

        Returns:
            Each scale's, (B, L, bits, 2).
        """
        batch = len(self.generators)
        shapes = ((batch, tokens, bits, 2) for tokens in schedule.tokens)
        self._ahead.extend(self._drawn(shape, device.type == "cuda") for shape in shapes)
        return list(self._ahead)

    def _drawn(self, shape: Sequence[int], pin_memory: bool = False) -> Tensor:
        noise = torch.empty(tuple(shape), dtype=torch.float32, device="cpu", pin_memory=pin_memory)
        for generator, one in zip(self.generators, noise, strict=True):
            one.exponential_(generator=generator)
        return noise
