"""The control: tokens kept at random. Knows counts; no scores."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor

from scalekv.kv.kernels.best import best_slots
from scalekv.kv.policies.policy import Step
from scalekv.kv.to_device import whole_numbers

Number = TypeVar("Number", int, Tensor)


class RandomPolicy:
    """Keeps tokens drawn at random from all that are cached, every one as likely.

    The draw is the same on every machine and for every picture: it depends on the layer, the
    scale and the head. All sequences, so both guidance halves, keep the same tokens. Every layer
    has the same capacity.
    """

    name = "random"

    def select(self, step: Step) -> Tensor | None:
        """See `Policy.select`; None where everything fits."""
        batch, heads, tokens, _ = step.k.shape
        if tokens <= step.capacity:
            return None
        seed = mixed(step.layer * len(step.schedule) + step.scale + 1)
        numbers = whole_numbers(step.heads, step.k.device).view(1, heads, 1)
        draws = mixed((numbers * tokens + torch.arange(tokens, device=step.k.device)) ^ seed)
        return best_slots(draws, step.capacity).expand(batch, -1, -1)


def mixed(x: Number) -> Number:
    """A fixed one-to-one shuffle of the whole numbers below 2**32; any device gives the same."""
    for _ in range(2):
        x = (((x >> 16) ^ x) * 0x45D9F3B) & 0xFFFFFFFF
    return (x >> 16) ^ x
