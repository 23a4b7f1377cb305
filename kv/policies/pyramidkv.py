"""PyramidKV: SnapKV's scores, with more room in the first layers than in the last."""

from __future__ import annotations

from scalekv.kv.policies.snapkv import SnapKVPolicy


class PyramidKVPolicy(SnapKVPolicy):
    """Keeps what SnapKV would, with capacities that fall linearly from the first layer to the last,
    at the same mean (arXiv 2406.02069)."""

    name = "pyramidkv"
