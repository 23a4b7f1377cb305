"""AMS-KV: the coarsest maps and the newest. Knows maps; no scores."""

from __future__ import annotations

from torch import Tensor

from scalekv.kv.kernels.best import best_slots
from scalekv.kv.policies.policy import Step
from scalekv.kv.policies.profiled import ProfiledPolicy
from scalekv.kv.policies.selection import first_and_newest

CONDENSED = 2
"""First maps that are always kept, the paper's condensed scales: 5 tokens at 1:1."""


class AMSKVPolicy(ProfiledPolicy):
    """Keeps the coarsest maps and the newest ones, in layers whose keys change more of them
    (arXiv 2511.16047).

    The first two maps stay, the condensed scales; then the newest, the local ones, as far as the
    capacity goes. Layers get more the more their keys change from map to map (`ams_budget`). Not in
    what is known here of the paper, and so guessed: that a map that does not fit is thinned out
    evenly (the paper caches whole scales), and how much more a layer gets.
    """

    name = "ams-kv"

    def select(self, step: Step) -> Tensor | None:
        """See `Policy.select`; None where everything fits."""
        if step.k.shape[2] <= step.capacity:
            return None
        return best_slots(first_and_newest(step, CONDENSED), step.capacity)
