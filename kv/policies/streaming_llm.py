"""StreamingLLM: attention sinks and the newest tokens. Knows counts; no scores."""

from __future__ import annotations

import torch
from torch import Tensor

from scalekv.kv.policies.policy import Step

SINKS = 4  # arXiv 2309.17453: the first tokens that are always kept


class StreamingLLMPolicy:
    """Keeps the first four tokens, the attention sinks, and the newest (arXiv 2309.17453).

    Newest is as in the sliding window. Sinks take at most half of a capacity. Every layer has the
    same capacity.
    """

    name = "streaming-llm"

    def select(self, step: Step) -> Tensor | None:
        """See `Policy.select`; None where everything fits."""
        batch, heads, tokens, _ = step.k.shape
        if tokens <= step.capacity:
            return None
        sinks = min(SINKS, step.capacity // 2)
        slots = torch.arange(step.capacity, device=step.k.device)
        slots[sinks:] += tokens - step.capacity
        return slots.expand(batch, heads, -1)
