"""ScaleKV's selection as its paper describes it. Knows shapes and scores; nothing of Infinity."""

from __future__ import annotations

from torch import Tensor

from scalekv.kv.kernels.best import best_slots
from scalekv.kv.kernels.mass import attention_mass
from scalekv.kv.kernels.pooling import pooled_on_maps
from scalekv.kv.policies.policy import Step
from scalekv.kv.policies.selection import window_tokens

KERNEL = 5  # arXiv 2505.19602 names average pooling; its released code's side


class ScaleKVPolicy:
    """Keeps the tokens that the newest map's patch centres attend to most (arXiv 2505.19602).

    The newest map is divided into patches whose central tokens form the observation window: at
    most `step.window` of them and at most a quarter of the capacity. The window is always kept.
    Every other cached token is scored by the attention the window pays it, averaged over its
    neighbourhood on the map of its own scale; per sequence and head, the best fill the capacity.
    """

    name = "scalekv"
    anchored_maps = 0  # first maps whose tokens stay as well

    def select(self, step: Step) -> Tensor | None:
        """See `Policy.select`; None, with nothing scored, where everything fits."""
        tokens = step.k.shape[2]
        if tokens <= step.capacity:
            return None
        height, width = step.schedule.scales[step.scale]
        window_W = window_tokens(height, width, step.observers, step.k.device)
        scores_BHT = pooled_on_maps(
            attention_mass(step.q, step.k, window_W),
            step.positions,
            step.schedule,
            step.scale + 1,
            KERNEL,
        )
        newest = tokens - step.schedule.tokens[step.scale]
        scores_BHT[..., newest:].index_fill_(2, window_W, float("inf"))
        if self.anchored_maps:
            self._anchor(scores_BHT, step)
        return best_slots(scores_BHT, step.capacity)

    def _anchor(self, scores_BHT: Tensor, step: Step) -> None:
        """The first maps' tokens, as many as leave the window its place, are wanted most."""
        first = step.schedule.before(min(self.anchored_maps, len(step.schedule)))
        first = min(first, step.capacity - step.observers)
        if step.positions is None:
            scores_BHT[..., :first] = float("inf")
        else:
            scores_BHT.masked_fill_(step.positions < first, float("inf"))
