"""The ways to hold a cache that are set side by side, and what each is called.

Knows policies, budgets and dtypes by name; no torch.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import product
from pathlib import Path

from scalekv.configs.values import AUTO
from scalekv.kv.budgets.budget import FULL
from scalekv.kv.policies.registry import policy_and_file


@dataclass(frozen=True)
class CacheVariant:
    """A way to hold the cache; kv_dtype "auto" holds what attention computes with.

    Its fields are what tells rows of measurements apart, beside the number of the prompt.
    """

    policy: str
    budget: str
    kv_dtype: str = AUTO

    @property
    def folder(self) -> str:
        """The name of a folder for it, another one for every variant."""
        if self == FULL_CACHE:
            return FULL
        name, file = policy_and_file(self.policy)
        words = [name, self.short_budget.replace("%", "pct")]
        words += [] if self.kv_dtype == AUTO else [self.kv_dtype]
        plain = re.sub(r"[^\w.-]+", "-", "-".join(words))
        if file is None and self.budget == self.short_budget:
            return plain
        return f"{plain}-{sha256(f'{self.policy} {self.budget}'.encode()).hexdigest()[:8]}"

    @property
    def files(self) -> list[Path]:
        """The files of the user's that it works from."""
        _, file = policy_and_file(self.policy)
        named = [Path(file)] if file is not None else []
        return named + ([Path(self.budget)] if self.budget.endswith(".yaml") else [])

    @property
    def short_policy(self) -> str:
        """The policy, with the name of its file alone: no folder of somebody's machine."""
        name, file = policy_and_file(self.policy)
        return name if file is None else f"{name}:{Path(file).name}"

    @property
    def short_budget(self) -> str:
        """The budget, likewise."""
        return Path(self.budget).name


FULL_CACHE = CacheVariant(FULL, FULL)
"""What all others are compared with."""


def cache_variants(
    policies: Sequence[str], budgets: Sequence[str], kv_dtypes: Sequence[str] = (AUTO,)
) -> list[CacheVariant]:
    """Every policy at every budget in every dtype; the full cache, which knows no budget, once."""
    chosen = (
        CacheVariant(FULL, FULL, kv) if FULL in (p, b) else CacheVariant(p, b, kv)
        for p, b, kv in product(policies, budgets, kv_dtypes)
    )
    return list(dict.fromkeys(chosen))
