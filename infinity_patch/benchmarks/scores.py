"""What the benchmarks' scorers wrote, read back. Knows their files alone. No torch."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import isclose, isfinite
from pathlib import Path
from statistics import fmean
from typing import Any

from scalekv.infinity_patch.benchmarks.prompts import STYLES
from scalekv.kv.errors import UserError


@dataclass(frozen=True)
class BenchmarkScore:
    """A benchmark's figure, as its authors report it.

    value: the higher the better; pictures: that it is of, 0 where the file does not say; parts:
    figures that it is made of.
    """

    value: float
    pictures: int
    parts: Mapping[str, float] = field(default_factory=dict)


def read_score(benchmark: str, path: Path) -> BenchmarkScore:
    """Reads the file that a scorer wrote.

    Raises:
        UserError: it cannot be read, or is not what that scorer writes.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the scores: {error}", where=str(path)) from error
    form, read = _READERS[benchmark]
    try:
        found = read(text)
        if not all(map(isfinite, (found.value, *found.parts.values()))):
            raise ValueError("a score is not finite")
    except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
        raise UserError(
            f"not what the scorer of {benchmark} writes: {error}",
            where=str(path),
            rule=form,
            fix="name that file; docs/benchmarks.md says how to run the scorer",
        ) from error
    return found


def _geneval(text: str) -> BenchmarkScore:
    """The mean over tasks of the share of pictures that are right."""
    by_task: dict[str, list[bool]] = {}
    for line in filter(None, text.splitlines()):
        row = json.loads(line)
        if not isinstance(row["correct"], bool):
            raise ValueError(f"{row['correct']!r} is neither right nor wrong")
        by_task.setdefault(str(row["tag"]), []).append(row["correct"])
    if not by_task:
        raise ValueError("no picture in it")
    parts = {task: fmean(right) for task, right in by_task.items()}
    return BenchmarkScore(fmean(parts.values()), sum(map(len, by_task.values())), parts)


def _dpg(text: str) -> BenchmarkScore:
    """What is stated at the end, which has to be the mean of the sheets' own scores."""
    stated = re.findall(r"^DPG-Bench score: ([-+.\deE]+)$", text, re.M)
    if len(stated) != 1:
        raise ValueError(f"{len(stated)} lines with the DPG-Bench score, not one")
    sheets = re.findall(r"^(?!\t).+\.png((?:, [-+.\deE]+)+)$", text, re.M)
    own = [float(sheet.rpartition(", ")[2]) for sheet in sheets]
    pictures = sum(sheet.count(", ") - 1 for sheet in sheets)
    if not own or not isclose(100 * fmean(own), float(stated[0]), rel_tol=1e-6, abs_tol=1e-6):
        raise ValueError("the score is not the mean of the sheets': several runs in one file?")
    named = re.findall(r"^\t(\w[^:\n]*): ([-+.\deE]+)$", text.partition("L2 category")[0], re.M)
    return BenchmarkScore(float(stated[0]), pictures, {name: float(value) for name, value in named})


def _hps(text: str) -> BenchmarkScore:
    """The average that is printed, or that of the four styles, which have as many prompts each."""
    found: dict[str, list[float]] = {}
    for name, value in re.findall(r"(\S+)\s+(-?\d+\.\d+)\s*(?:\t.*)?$", text, re.M):
        if name in (*STYLES, "Average"):
            found.setdefault(name, []).append(float(value))
    if lacking := [style for style in STYLES if style not in found]:
        raise ValueError(f"no score of {', '.join(lacking)}")
    if any(len(values) > 1 for values in found.values()):
        raise ValueError("scores of several models")
    parts = {style: found[style][0] for style in STYLES}
    value = found.get("Average", [fmean(parts.values())])[0]
    return BenchmarkScore(value, 0, parts)


def _imagereward(text: str) -> BenchmarkScore:
    """The mean over prompts of the mean reward of their pictures."""
    rows = json.loads(text)
    if not isinstance(rows, list) or not rows:
        raise ValueError("no list of prompts with rewards")
    rewards = [_numbers(row["rewards"]) for row in rows]
    return BenchmarkScore(fmean(map(fmean, rewards)), sum(map(len, rewards)))


def _numbers(value: Any) -> list[float]:
    values = value if isinstance(value, list) else [value]
    if not values or any(type(one) not in (int, float) for one in values):
        raise ValueError(f"{value!r} are no rewards")
    return [float(one) for one in values]


_READERS: dict[str, tuple[str, Callable[[str], BenchmarkScore]]] = {
    "geneval": ("results.jsonl of evaluation/evaluate_images.py: a picture a line", _geneval),
    "dpg": ("the text of --res-path that dpg_bench/compute_dpg_bench.py wrote", _dpg),
    "hps": ("what hpsv2.evaluate prints, kept in a file: a line a style", _hps),
    "imagereward": (
        "ImageReward-v1.0-benchmark-NAME-result.json of test-benchmark.py: a prompt an entry",
        _imagereward,
    ),
}
