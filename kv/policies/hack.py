"""HACK: heads by what they look at. Knows shapes, scores and maps; nothing of Infinity."""

from __future__ import annotations

from torch import Tensor

from scalekv.kv.kernels.best import best_slots
from scalekv.kv.kernels.mass import attention_mass
from scalekv.kv.policies.policy import Step
from scalekv.kv.policies.profiled import ProfiledPolicy
from scalekv.kv.policies.selection import first_and_newest, window_tokens
from scalekv.kv.to_device import whole_numbers

SINKS = 2
"""First maps that structural heads always keep; arXiv 2606.08302."""


class HACKPolicy(ProfiledPolicy):
    """Keeps by content in contextual heads and by position in structural ones (arXiv 2504.09261).

    A calibration tells the kinds apart by the variance of attention over queries: contextual
    heads, whose queries look at the same tokens, keep those that an observation window attends to
    most, and the window; structural heads, whose queries look each at its own place, keep the first
    two maps and the newest. The kinds have budgets of their own (`hack_budget`).

    Not in what is known here of the paper, and so guessed: where the line between the kinds is, how
    their budgets are to each other, that the window is the newest map's patch centres, and that a
    map that does not fit is thinned out evenly. The published code was not looked at.
    """

    name = "hack"

    def select(self, step: Step) -> Tensor | None:
        """See `Policy.select`; None, with nothing scored, where everything fits.

        Raises:
            UserError: no calibration.
        """
        if step.k.shape[2] <= step.capacity:
            return None
        structural = self.profile.structural[step.layer]
        by_position = tuple(head in structural for head in step.heads)
        if all(by_position):
            return best_slots(first_and_newest(step, SINKS), step.capacity)
        scores_BHT = self._by_content(step)
        if any(by_position):
            chosen = whole_numbers(tuple(map(int, by_position)), step.k.device).bool()
            scores_BHT = first_and_newest(step, SINKS).where(chosen.view(1, -1, 1), scores_BHT)
        return best_slots(scores_BHT, step.capacity)

    @staticmethod
    def _by_content(step: Step) -> Tensor:
        """(B, H, T) attention of the window, whose own tokens are wanted most."""
        height, width = step.schedule.scales[step.scale]
        window_W = window_tokens(height, width, step.observers, step.k.device)
        scores_BHT = attention_mass(step.q, step.k, window_W)
        newest = step.k.shape[2] - step.schedule.tokens[step.scale]
        scores_BHT[..., newest:].index_fill_(2, window_W, float("inf"))
        return scores_BHT
