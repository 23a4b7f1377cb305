"""What the papers report, as rows to print beside one's own. Knows figures and their sources."""

from __future__ import annotations

from dataclasses import dataclass

PAPER = "arXiv 2505.19602"
RERUN = "a user's rerun of the released code"
HISTORY = 6425
"""Tokens of the published models' history at 1M, 1:1: all scales but the last."""
ALL_SCALES = 10521
PICTURES = 5000
TOKENS = {20: 1300, 10: 650, 4: 265}
"""Percent in the tables -> tokens a layer may hold in the mean."""


@dataclass(frozen=True)
class PublishedRow:
    """One line of a table.

    percent: as the table names it; fid, lpips, psnr: against the same model's full cache, PSNR in
    dB.
    """

    source: str
    model: str
    percent: int
    policy: str
    fid: float
    lpips: float
    psnr: float

    def is_of(self, policy: str, budget: str) -> bool:
        """Whether a policy under a budget is what this row is about."""
        names = (f"{self.percent}%", f"paper-{self.percent}", f"as-published-{self.percent}")
        return policy == self.policy and budget in names


def _table(percent: int, policy: str, *models: tuple[float, float, float]) -> list[PublishedRow]:
    names = ("infinity-2b", "infinity-8b")
    pairs = zip(names, models, strict=True)
    return [PublishedRow(PAPER, name, percent, policy, *figures) for name, figures in pairs]


PUBLISHED = (
    # arXiv 2505.19602, its table of quality: FID, LPIPS, PSNR of 2B and of 8B
    *_table(20, "sliding-window", (5.63, 0.17, 20.71), (4.82, 0.14, 20.99)),
    *_table(20, "streaming-llm", (3.85, 0.12, 22.00), (3.94, 0.14, 21.65)),
    *_table(20, "snapkv", (3.25, 0.12, 22.51), (3.10, 0.10, 22.65)),
    *_table(20, "pyramidkv", (3.23, 0.11, 22.62), (3.03, 0.10, 22.76)),
    *_table(20, "scalekv", (1.82, 0.08, 24.84), (1.45, 0.06, 25.60)),
    *_table(10, "sliding-window", (8.58, 0.24, 18.99), (8.71, 0.20, 19.02)),
    *_table(10, "streaming-llm", (5.49, 0.19, 19.79), (6.29, 0.17, 19.97)),
    *_table(10, "snapkv", (4.66, 0.16, 20.83), (4.68, 0.15, 20.60)),
    *_table(10, "pyramidkv", (4.52, 0.16, 20.92), (4.69, 0.14, 20.79)),
    *_table(10, "scalekv", (2.53, 0.11, 22.64), (2.12, 0.09, 23.25)),
    *_table(4, "sliding-window", (16.68, 0.30, 17.49), (19.23, 0.27, 17.50)),
    *_table(4, "streaming-llm", (8.71, 0.25, 18.31), (8.54, 0.22, 18.63)),
    *_table(4, "snapkv", (5.10, 0.24, 18.23), (6.68, 0.19, 19.15)),
    *_table(4, "pyramidkv", (5.51, 0.23, 18.65), (6.55, 0.19, 19.26)),
    *_table(4, "scalekv", (3.51, 0.16, 20.82), (3.37, 0.12, 21.41)),
    PublishedRow(RERUN, "infinity-2b", 10, "scalekv", 3.04, 0.148, 21.76),
)


def published_for(model: str) -> list[PublishedRow]:
    """The rows of a model; of another model those of the smallest, whose order may be compared."""
    own = [row for row in PUBLISHED if row.model == model]
    return own or [row for row in PUBLISHED if row.model == "infinity-2b"]
