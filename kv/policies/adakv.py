"""Ada-KV: SnapKV's scores, with a budget for each head. Knows scores; nothing of maps."""

from __future__ import annotations

from scalekv.kv.policies.profiled import ProfiledPolicy
from scalekv.kv.policies.snapkv import SnapKVPolicy


class AdaKVPolicy(SnapKVPolicy, ProfiledPolicy):
    """Keeps what SnapKV would, heads that spread their attention getting more of their layer's
    tokens than heads that look at few (after arXiv 2407.11550).

    The paper allots anew for every input; here a calibration allots once, which is what
    `adaptive_budget` says more of.
    """

    name = "adakv"
