"""ScaleKV that never drops what the first maps hold. Knows scales; nothing of Infinity."""

from __future__ import annotations

from scalekv.kv.policies.scale import ScaleKVPolicy


class AnchoredScaleKVPolicy(ScaleKVPolicy):
    """ScaleKV's selection (arXiv 2505.19602) with the first three maps always kept.

    What a picture is of is decided by its first maps, but the queries of the newest map look at
    their own neighbourhood, so that under a small budget ScaleKV's window lets the first maps go.
    HeatKV keeps the first three always (arXiv 2605.14877); so does this, as far as the window
    leaves room. In the published models they are 21 tokens of the hundreds that a layer holds.
    """

    name = "scalekv-anchored"
    anchored_maps = 3
