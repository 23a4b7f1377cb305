"""What an evaluation came to: every measure of every variant, from rows alone.

Knows rows and their names; nothing of pictures. The same rows give the same result, to the byte.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from scalekv.infinity_patch.evaluation.kept import VARIANT, variant_of
from scalekv.infinity_patch.evaluation.rows import Row
from scalekv.infinity_patch.evaluation.statistics import interval, mean, median
from scalekv.infinity_patch.evaluation.variants import FULL_CACHE, CacheVariant
from scalekv.kv.budgets.budget import FULL

FORMAT = 1
DIGITS = 8
PAIRED = ("ssim", "features", "lpips")
"""Measures of a picture beside the full cache's."""
SCALED = ("bits", "forced")
"""Shares of bits, a number a scale."""


def joined(pictures: Iterable[Row], more: Mapping[str, Iterable[Row]]) -> list[Row]:
    """The rows of pictures, each with the values that others have for it.

    Args:
        more: rows with a `value` by the name of the measure.
    """
    rows = {_key(row): dict(row) for row in pictures}
    for name, found in more.items():
        for row in found:
            if _key(row) in rows:
                rows[_key(row)][name] = row["value"]
    return sorted(rows.values(), key=lambda row: int(row["number"]))


def result(
    settings: Row,
    rows: Sequence[Row],
    fids: Iterable[Row],
    left_out: Mapping[str, str],
    scores: Iterable[Row] = (),
) -> dict[str, Any]:
    """Everything about a run that is to be told, as JSON values.

    Args:
        settings: what all rows have in common.
        rows: as `joined` gives them.
        fids: rows with a variant, the number of `pictures` and a `value`.
        left_out: measures that were not taken -> why.
        scores: rows with a variant, the name of a `score`, its `value` and the `pictures`.
    """
    variants = by_variant(rows)
    full = variants[FULL_CACHE]
    whole = {"history": full[0]["full_bytes"], "all_scales": full[0]["full_bytes_all"]}
    told = [_facts(variant, its, whole, settings["tokens"]) for variant, its in variants.items()]
    places = {variant_key(its[0]): one for its, one in zip(variants.values(), told, strict=True)}
    for row in fids:
        one = places.get(variant_key(row))
        if one is not None and one["pictures"] == row["pictures"] == len(full):
            one["fid"] = {"value": row["value"]}
    for row in scores:
        if variant_key(row) in places:
            named = places[variant_key(row)].setdefault("scores", {})
            named[row["score"]] = {"value": row["value"], "pictures": row["pictures"]}
    return {
        "format": FORMAT,
        "settings": settings,
        "machines": sorted({str(row["machine"]) for row in rows}),
        "pictures": len(full),
        "full_cache_bytes": whole,
        "variants": told,
        "left_out": dict(left_out),
    }


def by_variant(rows: Sequence[Row]) -> dict[CacheVariant, list[Row]]:
    """The rows of every variant: the full cache first, then as much is held, falling."""
    found: dict[CacheVariant, list[Row]] = {}
    for row in rows:
        found.setdefault(variant_of(row), []).append(row)

    def place(variant: CacheVariant) -> tuple[Any, ...]:
        held = max(int(row["held_peak_bytes"]) for row in found[variant])
        return (variant != FULL_CACHE, variant.policy != FULL, -held, variant.policy)

    return {variant: found[variant] for variant in sorted(found, key=place)}


def _facts(
    variant: CacheVariant, rows: Sequence[Row], whole: Mapping[str, int], tokens: Sequence[int]
) -> dict[str, Any]:
    """One variant's measures; those that nobody took are not there."""
    held = max(int(row["held_peak_bytes"]) for row in rows)
    found: dict[str, Any] = {
        "policy": variant.short_policy,
        "budget": variant.short_budget,
        "kv_dtype": variant.kv_dtype,
        "stored_as": rows[0]["stored_as"],
        "files": rows[0]["files"],
        "pictures": len(rows),
        "held_peak_bytes": held,
        "share_of_history": round(held / whole["history"], DIGITS),
        "share_of_all_scales": round(held / whole["all_scales"], DIGITS),
    }
    if variant == FULL_CACHE:
        return found
    differing = [float(row["psnr"]) for row in rows if row["psnr"] is not None]
    found["identical"] = len(rows) - len(differing)
    if differing:
        middle = round(interval(differing, median)[0], DIGITS)
        found["psnr"] = _mean(differing) | {"median": middle}
    for name in PAIRED:
        if all(name in row for row in rows):
            found[name] = _mean([float(row[name]) for row in rows])
    for name in SCALED:
        if all(name in row for row in rows):
            scales = list(zip(*(row[name] for row in rows), strict=True))
            shares = [np.average(row[name], weights=tokens) for row in rows]
            found[name] = _mean(shares) | {"by_scale": [_mean(scale) for scale in scales]}
    return found


def _mean(values: Sequence[float]) -> dict[str, float]:
    """The mean over prompts, and its 95 % bootstrap interval."""
    value, low, high = (round(number, DIGITS) for number in interval(values, mean))
    return {"mean": value, "low": low, "high": high}


def variant_key(row: Row) -> tuple[object, ...]:
    """What tells the variant of a row from others."""
    return tuple(row[name] for name in VARIANT)


def _key(row: Row) -> tuple[object, ...]:
    return (row["number"], *variant_key(row))
