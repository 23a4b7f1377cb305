"""The page of results that people sent: tables from the files in results/, made with the site.

Knows results as `scalekv eval` writes them, and Markdown.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scalekv.infinity_patch.evaluation.precisions import computed_in, with_precisions
from scalekv.infinity_patch.evaluation.tables import Grid, markdown, quality
from scalekv.kv.budgets.budget import FULL
from scalekv.kv.sizes import human_bytes

FOLDER = Path(__file__).parents[1] / "results"
SCHEMA = "schema.json"
INTRODUCTION = """\
# Leaderboard

What `scalekv eval` measured, made from the files in the folder `results` of the repository. Rows of
one table are of the same model, captions and seeds, best PSNR first, and may be compared with one
another; rows of different tables may not. What the columns mean, and how to send a file of your
own: [evaluation](evaluation.md#sending-results).
"""

Result = dict[str, Any]


def results(folder: Path = FOLDER) -> dict[str, Result]:
    """Every result by the name of its file."""
    files = sorted(path for path in folder.glob("*.json") if path.name != SCHEMA)
    return {path.name: json.loads(path.read_text(encoding="utf-8")) for path in files}


def leaderboard(found: Mapping[str, Result]) -> str:
    """The page: a table for all results that may be compared; published models first."""
    groups: dict[tuple[Any, ...], list[str]] = {}
    for name, result in found.items():
        settings = result["settings"]
        same = ("model", "protocol", "captions_sha256", "seed", "cfg", "tau", "top_p", "tokens")
        key = (settings["model"] == "emoji", *(str(settings[name]) for name in same))
        groups.setdefault((*key, result["pictures"]), []).append(name)
    parts = [INTRODUCTION]
    for _, names in sorted(groups.items()):
        parts.append(_section({name: found[name] for name in names}))
    return "\n".join(parts)


def _section(found: Mapping[str, Result]) -> str:
    first = next(iter(found.values()))
    settings = first["settings"]
    from_file = [(name, facts) for name, result in found.items() for facts in result["variants"]]
    ranked = sorted(
        (pair for pair in from_file if pair[1]["policy"] != FULL or "psnr" in pair[1]),
        key=lambda pair: -float(pair[1].get("psnr", {}).get("mean", 0.0)),
    )
    names, variants = [name for name, _ in ranked], [facts for _, facts in ranked]
    table = quality({"variants": variants})
    beside = Grid([*table.headings, "file"], _joined(table.rows, names))
    lines = [
        f"## {settings['model']}, {first['pictures']:,} captions",
        "",
        f"Protocol {settings['protocol']}, captions of {settings['captions']}, seeds from "
        f"{settings['seed']}; the full cache holds "
        f"{human_bytes(first['full_cache_bytes']['history'])} of history.",
        "",
        markdown(beside),
    ]
    for name, result in found.items():
        its = with_precisions(result["settings"])
        lines.append(
            f"- `{name}`: scalekv {its['scalekv']}, {computed_in(its)}, torch {its['torch']}, "
            f"{', '.join(result['machines'])}."
        )
    return "\n".join(lines) + "\n"


def _joined(rows: Sequence[Sequence[str]], names: Sequence[str]) -> list[list[str]]:
    return [[*row, f"`{name}`"] for row, name in zip(rows, names, strict=True)]
