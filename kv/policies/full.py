"""The exact baseline: keep everything."""

from __future__ import annotations

from torch import Tensor

from scalekv.kv.policies.policy import Step


class FullPolicy:
    """Keeps every token of every scale but the last; takes no budget."""

    name = "full"

    def select(self, step: Step) -> Tensor | None:
        """None: all slots."""
        return None
