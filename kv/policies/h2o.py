"""H2O: heavy hitters and the newest tokens. Knows shapes, scores and what earlier scales gave."""

from __future__ import annotations

from torch import Tensor

from scalekv.kv.kernels.best import best_slots
from scalekv.kv.kernels.mass import attention_mass
from scalekv.kv.policies.policy import Step

_QUERIES = 256  # scored at a time, which bounds the weights held


class H2OPolicy:
    """Keeps heavy hitters, half of the capacity, and the newest tokens (arXiv 2306.14048).

    A heavy hitter is a token to which all queries since it was cached, of every scale and of its
    own, have paid most attention in sum. The sums are notes of one float32 per held token. It
    scores all queries, which costs as much as the attention itself. Every layer has the same
    capacity; the odd token of a capacity goes to the newest.
    """

    name = "h2o"

    def select(self, step: Step) -> Tensor | None:
        """See `Policy.select`; attention is summed also where everything fits."""
        mass_BHT = step.k.new_zeros(step.k.shape[:3]).float()
        for queries in step.q.split(_QUERIES, dim=2):
            mass_BHT += attention_mass(queries, step.k)
        before = step.notes.get("mass")
        if before is not None:
            mass_BHT[..., : before.shape[2]] += before
        if step.k.shape[2] <= step.capacity:
            step.notes["mass"] = mass_BHT
            return None
        ranked = mass_BHT.clone()
        ranked[..., -(step.capacity - step.capacity // 2) :] = float("inf")
        slots = best_slots(ranked, step.capacity)
        step.notes["mass"] = mass_BHT.gather(2, slots)
        return slots
