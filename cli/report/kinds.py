"""The caches of a run by kind: pictures of one policy and budget are told from those of another.

Knows ledgers as plain JSON values; nothing of pages or files.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Self

from scalekv.cli.report.figures import largest_cache


class Kinds:
    """Of every policy and budget: how many pictures were drawn with it, and the largest ledger."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], tuple[int, Mapping[str, Any]]] = {}

    @classmethod
    def of(cls, caches: Iterable[Mapping[str, Any]]) -> Self:
        """From the ledgers of pictures."""
        kinds = cls()
        for cache in caches:
            kinds.add(cache)
        return kinds

    def add(self, cache: Mapping[str, Any]) -> None:
        """Counts a picture's ledger."""
        kind = drawn_kind(cache)
        count, largest = self._found.get(kind, (0, cache))
        self._found[kind] = count + 1, largest_cache([largest, cache])

    @property
    def main(self) -> Mapping[str, Any]:
        """The largest ledger of the kind that most pictures are of; {} of no picture."""
        if not self._found:
            return {}
        _, cache = max(
            self._found.values(), key=lambda kind: (kind[0], int(kind[1]["held_peak_bytes"]))
        )
        return cache

    def to_list(self) -> list[dict[str, Any]]:
        """As reports have it, the kind of most pictures first."""
        return [
            {
                "policy": policy,
                "budget": budget,
                "pictures": count,
                "held_peak_bytes": int(cache["held_peak_bytes"]),
                "ratio_history": cache["ratio_history"],
            }
            for (policy, budget), (count, cache) in sorted(
                self._found.items(), key=lambda item: -item[1][0]
            )
        ]


def drawn_kind(cache: Mapping[str, Any]) -> tuple[str, str]:
    """Policy and budget of a ledger; "full" where it has no budget. Where finer scales were not
    drawn, the policy says so."""
    budget, stop = cache.get("budget"), cache.get("stop_after")
    policy = str(cache["policy"]) + (f" up to scale {stop}" if stop else "")
    return policy, str(budget["label"]) if budget else "full"


def drawn_with(policy: str, budget: str) -> str:
    """A kind in words."""
    return policy if budget == "full" else f"{policy}, budget {budget}"
