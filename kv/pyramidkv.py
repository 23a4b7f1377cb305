"""PyramidKV: SnapKV's scores, with more room in the first layers than in the last."""

from __future__ import annotations

from scalekv.kv.budget import Budget
from scalekv.kv.shapes import pyramid
from scalekv.kv.snapkv import SnapKVPolicy


class PyramidKVPolicy(SnapKVPolicy):
    """Keeps what SnapKV would, with capacities falling over the layers (arXiv 2406.02069)."""

    name = "pyramidkv"

    def plan(self, asked: Budget) -> Budget:
        """Capacities that fall linearly from the first layer to the last, at the same mean."""
        return pyramid(asked)
