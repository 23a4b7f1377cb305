"""SnapKV: what the last tokens attend to. Knows shapes and scores; nothing of maps."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from scalekv.kv.kernels.best import best_slots
from scalekv.kv.kernels.mass import attention_mass
from scalekv.kv.policies.policy import Step

KERNEL = 5  # average pooling with this kernel is the published code's default


class SnapKVPolicy:
    """Keeps what the last tokens of the newest map attend to most (arXiv 2404.14469).

    The last tokens in raster order, at most `step.observers`, are the observation window, and are
    always kept. Every other cached token is scored by the attention the window pays it, averaged
    along the cached sequence (padding counts, as published); per sequence and head, the best fill
    the capacity. Every layer has the same capacity.
    """

    name = "snapkv"

    def select(self, step: Step) -> Tensor | None:
        """See `Policy.select`; None, with nothing scored, where everything fits."""
        tokens = step.k.shape[2]
        if tokens <= step.capacity:
            return None
        window = min(step.observers, step.q.shape[2])
        mass_BHT = attention_mass(step.q[:, :, -window:], step.k)
        pooled = F.avg_pool1d(mass_BHT[..., :-window], KERNEL, stride=1, padding=KERNEL // 2)
        return best_slots(F.pad(pooled, (0, window), value=float("inf")), step.capacity)
