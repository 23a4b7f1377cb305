"""The tables of an evaluation, in Markdown and LaTeX, beside those of the papers.

Knows results as `summary` makes them; nothing of rows or pictures. No torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scalekv.infinity_patch.evaluation.precisions import computed_in
from scalekv.infinity_patch.evaluation.protocols import Protocol, protocol_named
from scalekv.infinity_patch.evaluation.published import (
    ALL_SCALES,
    HISTORY,
    PICTURES,
    TOKENS,
    PublishedRow,
    published_for,
)
from scalekv.kv.sizes import human_bytes

Facts = Mapping[str, Any]


@dataclass(frozen=True)
class Grid:
    """A table: headings, cells, and how many columns at the left are words."""

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: int = 3


def _about(key: str, digits: int) -> Callable[[Facts], str]:
    def cell(facts: Facts) -> str:
        found = facts.get(key)
        if found is None:
            return ""
        if "mean" not in found:
            return f"{found['value']:.{digits}f}"
        value, low, high = (f"{found[name]:.{digits}f}" for name in ("mean", "low", "high"))
        return value if value == low == high else f"{value} ({low} to {high})"

    return cell


MEASURES: dict[str, tuple[str, Callable[[Facts], str]]] = {
    "psnr": ("PSNR (dB)", _about("psnr", 2)),
    "ssim": ("SSIM", _about("ssim", 4)),
    "lpips": ("LPIPS", _about("lpips", 4)),
    "fid": ("FID", _about("fid", 2)),
    "features": ("feature distance", _about("features", 4)),
    "bits": ("equal bits", _about("bits", 4)),
    "forced": ("agreement, forced", _about("forced", 4)),
}
"""Columns by the key in a result."""


def quality(result: Facts) -> Grid:
    """A line a variant: what it holds, and every measure that was taken."""
    variants: list[Facts] = list(result["variants"])
    taken = [name for name in MEASURES if any(name in facts for facts in variants)]
    scored = sorted({name for facts in variants for name in facts.get("scores", {})})
    headings = ["policy", "budget", "held as", "pictures", "held", "of history"]
    headings += [MEASURES[name][0] for name in taken] + ["same picture"] + scored
    rows = [
        [
            facts["policy"],
            facts["budget"],
            facts["stored_as"],
            str(facts["pictures"]),
            human_bytes(facts["held_peak_bytes"]),
            f"{facts['share_of_history']:.1%}",
            *(MEASURES[name][1](facts) for name in taken),
            str(facts.get("identical", "")),
            *(_score(facts, name) for name in scored),
        ]
        for facts in variants
    ]
    return Grid(headings, rows)


def _score(facts: Facts, name: str) -> str:
    found = facts.get("scores", {}).get(name)
    return "" if found is None else f"{found['value']:.4g}"


def by_scale(result: Facts, name: str) -> Grid | None:
    """Shares of bits at each scale; None: they were not taken."""
    variants = [facts for facts in result["variants"] if name in facts]
    if not variants:
        return None
    scales = range(1, len(variants[0][name]["by_scale"]) + 1)
    rows = [
        [
            facts["policy"],
            facts["budget"],
            facts["stored_as"],
            *(_about("scale", 3)({"scale": scale}) for scale in facts[name]["by_scale"]),
        ]
        for facts in variants
    ]
    return Grid(["policy", "budget", "held as", *map(str, scales)], rows)


def beside_papers(result: Facts) -> Grid:
    """The papers' rows, each beside the run's own of the same policy and budget."""
    rows = []
    for published in published_for(result["settings"]["model"]):
        own = _same(result, published)
        rows.append(
            [
                published.source,
                published.model,
                f"{published.percent} %",
                published.policy,
                f"{published.psnr:.2f}",
                _value(own, "psnr", 2),
                f"{published.lpips:.3g}",
                _value(own, "lpips", 3),
                f"{published.fid:.2f}",
                _value(own, "fid", 2),
            ]
        )
    pairs = [f"{name}, {whose}" for name in ("PSNR", "LPIPS", "FID") for whose in ("paper", "here")]
    return Grid(["source", "model", "budget", "policy", *pairs], rows, words=4)


def _same(result: Facts, published: PublishedRow) -> Facts | None:
    """The variant of a run that a published row is about, held as attention computes."""
    for facts in result["variants"]:
        if facts["kv_dtype"] == "auto" and published.is_of(facts["policy"], facts["budget"]):
            return dict(facts)
    return None


def _value(facts: Facts | None, name: str, digits: int) -> str:
    found = {} if facts is None else facts.get(name, {})
    value = found.get("mean", found.get("value"))
    return "" if value is None else f"{value:.{digits}f}"


def differences(result: Facts) -> list[str]:
    """A line for each thing in which a run differs from the papers' tables."""
    settings = result["settings"]
    published = published_for(settings["model"])[0]
    found = []
    if settings["model"] != published.model:
        found.append(
            f"Model: {settings['model']} here, {published.model} there. The numbers are of "
            "different pictures; at most the order of the policies may be compared."
        )
    found.append(
        f"Captions: {result['pictures']:,} of {settings['captions']} here; {PICTURES:,} of COCO "
        "there, without a list of which."
    )
    tokens = settings["tokens"]
    history = sum(tokens[:-1])
    shares = ", ".join(f"{percent} % is {n} tokens" for percent, n in TOKENS.items())
    found.append(
        f"Denominator: shares are of the history, all scales but the last: {history} of "
        f"{sum(tokens)} tokens here, {HISTORY} of {ALL_SCALES} there. In the paper {shares} a "
        "layer in the mean; N% here is that of the history, rounded down."
    )
    found.append(
        "Bytes: the paper's are of float32 keys and bfloat16 values, of 8 pictures; here of one "
        f"picture with guidance, as they are held, computed in {settings['dtype']}."
    )
    protocol = protocol_named(settings["protocol"])
    found.append(f"Sampling: {protocol.unstated}")
    found += [f"Sampling: {change}." for change in changes(settings, protocol)]
    same = sum(facts.get("identical", 0) for facts in result["variants"])
    found.append(
        "PSNR: the mean over pictures that differ from the full cache's; "
        + (f"{same} that are the same have none" if same else "all do")
        + ". A mean with one of those would be infinite."
    )
    if any("fid" in facts for facts in result["variants"]) and result["pictures"] < PICTURES:
        found.append(
            f"FID: of {result['pictures']:,} pictures here, of {PICTURES:,} there; fewer give more."
        )
    return found


def changes(settings: Facts, protocol: Protocol) -> list[str]:
    """What a run set otherwise than its protocol does, each in words."""
    wanted = {
        name: getattr(protocol, name) for name in ("cfg", "tau", "top_p", "seed", "pixels", "ratio")
    }
    found = []
    for name, value in wanted.items():
        here = settings[name]
        values = set(here) if isinstance(here, list) else {here}
        if value is not None and values != {value}:
            shown = ", ".join(f"{one:g}" if isinstance(one, float) else str(one) for one in values)
            found.append(f"{name} is {shown} here, {value} in the protocol")
    return found


def markdown(grid: Grid) -> str:
    """A table as Markdown."""
    lines = [grid.headings, ["---"] * len(grid.headings), *grid.rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines) + "\n"


def latex(grid: Grid) -> str:
    """A table as LaTeX, for the package booktabs."""
    columns = "l" * grid.words + "r" * (len(grid.headings) - grid.words)
    lines = [" & ".join(map(_escaped, cells)) + r" \\" for cells in (grid.headings, *grid.rows)]
    body = "\n".join([lines[0], r"\midrule", *lines[1:]])
    return f"\\begin{{tabular}}{{{columns}}}\n\\toprule\n{body}\n\\bottomrule\n\\end{{tabular}}\n"


def _escaped(text: str) -> str:
    for sign in "&%_#$":
        text = text.replace(sign, "\\" + sign)
    return text


def what_was_measured(result: Facts) -> str:
    """What was measured, in Markdown: a line a variant, then shares of bits by scale."""
    parts = [headline(result), "", markdown(quality(result))]
    for name, title in SCALES.items():
        scales = by_scale(result, name)
        if scales is not None:
            parts += [f"{title} by scale, means with 95 % intervals:", "", markdown(scales)]
    return "\n".join(parts)


def report(result: Facts) -> str:
    """The whole report in Markdown: what was measured, and the papers' figures beside it."""
    parts = ["# Quality under compressed caches", "", what_was_measured(result)]
    parts += [f"{line}\n" for line in left_out(result)]
    parts += ["## Beside the papers", "", markdown(beside_papers(result)), "What differs:", ""]
    parts += [f"- {line}" for line in differences(result)]
    return "\n".join(parts) + "\n"


SCALES = {
    "bits": "Equal bits",
    "forced": "Agreement under the full cache's bits",
}


def headline(result: Facts) -> str:
    """What was measured, in a sentence or two."""
    settings, whole = result["settings"], result["full_cache_bytes"]
    return (
        f"Protocol {settings['protocol']}: model {settings['model']}, {computed_in(settings)}, on "
        f"{', '.join(result['machines'])}; {result['pictures']} captions of "
        f"{settings['captions']}, seeds from {settings['seed']}. Each picture against the full "
        f"cache's of the same caption and seed, {human_bytes(whole['history'])} of history "
        f"({human_bytes(whole['all_scales'])} with the last scale): means over captions with 95 % "
        "bootstrap intervals."
    )


def left_out(result: Facts) -> list[str]:
    """A line for each measure that was not taken, and why."""
    return [f"Left out: {MEASURES[name][0]}: {why}." for name, why in result["left_out"].items()]
