"""HACK++: HACK's kinds of heads, with budgets by how much each relies on earlier scales."""

from __future__ import annotations

from scalekv.kv.policies.hack import HACKPolicy


class HACKPlusPolicy(HACKPolicy):
    """Keeps what HACK would, each head with a budget of its own at every scale (arXiv 2606.08302).

    Budgets go by how much a head relies on earlier scales (`hack_plus_budget`, where it says what
    is guessed). The method has a second budget, for attention: how many tokens of the cache and of
    the current map the queries of a scale may look at. It bounds time and not memory, and is not
    made here: attention sees everything that is held and the whole newest map, so pictures are, if
    anything, closer to the full cache's than the method's own.
    """

    name = "hack-plus"
