"""ScaleKV's selection as its released code scores. Knows shapes and scores; nothing of Infinity."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from scalekv.kv.errors import UserError
from scalekv.kv.kernels.best import best_slots
from scalekv.kv.kernels.mass import logit_sums
from scalekv.kv.policies.policy import Step
from scalekv.kv.policies.selection import window_tokens

KERNEL = 5


class ReleasedScaleKVPolicy:
    """Keeps what the code released with ScaleKV (2025-11) would, which is not what the paper says.

    The window is the paper's, the patch centres of the newest map. But the observing queries are
    the projection's alone (`Step.raw_queries`), their raw logits are summed without a softmax, and
    the sums of the other tokens are max-pooled along the cached sequence, over the edges of maps
    and past dropped tokens. Budgets are ScaleKV's.
    """

    name = "scalekv-released"

    def select(self, step: Step) -> Tensor | None:
        """See `Policy.select`; None, with nothing scored, where everything fits.

        Raises:
            UserError: nobody provides the raw queries.
        """
        tokens = step.k.shape[2]
        if tokens <= step.capacity:
            return None
        if step.raw_queries is None:
            raise UserError(
                "nobody provides the queries of the projection alone",
                where=f"policy {self.name}",
                rule="it scores with queries that have no bias, normalisation, scale and rotation",
                fix="give `raw_queries` to `Caches.attend`, or use `patched`",
            )
        height, width = step.schedule.scales[step.scale]
        window_W = window_tokens(height, width, step.observers, step.k.device)
        slots_W = window_W + (tokens - step.schedule.tokens[step.scale])
        sums_BHT = logit_sums(step.raw_queries(window_W), step.k)
        sums_BHT.index_fill_(2, slots_W, -float("inf"))
        pooled = F.max_pool1d(sums_BHT, KERNEL, stride=1, padding=KERNEL // 2)
        return best_slots(pooled.index_fill(2, slots_W, float("inf")), step.capacity)
