"""Sliding window: the newest tokens. Knows counts; no scores."""

from __future__ import annotations

import torch
from torch import Tensor

from scalekv.kv.policies.policy import Step


class SlidingWindowPolicy:
    """Keeps the newest tokens (the sliding window of Longformer, arXiv 2004.05150).

    Newest is what comes last in the sequence: the finest map, its last rows first. Every layer has
    the same capacity.
    """

    name = "sliding-window"

    def select(self, step: Step) -> Tensor | None:
        """See `Policy.select`; None where everything fits."""
        batch, heads, tokens, _ = step.k.shape
        if tokens <= step.capacity:
            return None
        newest = torch.arange(tokens - step.capacity, tokens, device=step.k.device)
        return newest.expand(batch, heads, -1)
