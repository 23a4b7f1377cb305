"""What each part of the coded cache brings on the built-in model, and what its energy looks like.

    python -m scripts.evaluate.coded --out runs/coded

Each variant leaves a part out of the rule, is calibrated anew, draws the same prompts within the
same bytes, and is compared with the full cache. `OUT/ablation.jsonl` holds a row a variant; those
in it are not measured again, and `OUT/ablation.md` is made from it alone.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray

from scalekv.cli.batch.file import prompts_alone
from scalekv.configs.models import calibration_prompts
from scalekv.infinity_patch import Pipeline, Request, generate, load, patched
from scalekv.infinity_patch.calibration.coded import GROUPS, ConstantsMeasure
from scalekv.infinity_patch.evaluation.statistics import interval, mean, median
from scalekv.infinity_patch.generation.pipeline import settled_on
from scalekv.kv.coded import codec, fitting, units
from scalekv.kv.coded.constants import GUIDED, Constants
from scalekv.kv.coded.levels import OCTAVE
from scalekv.kv.coded.statistics import Moments
from scalekv.kv.policies.coded import CodedPolicy
from scripts.evaluate.prompts import composed_prompts, drawing_prompts

SEED = 50000

TOGETHER = 16


Size = tuple[str, str]

OWN, WIDE, LARGE = ("1:1", "0.06M"), ("2:1", "0.06M"), ("1:1", "0.25M")
"""The built-in model's own size, and others, for which it was not made: what constants of one size
cost at another shows all the same, each picture being beside its own full cache's."""


@dataclass(frozen=True)
class Left:
    """What is left of the rule.

    Attributes:
        name: for people.
        transform: the cosine transform over maps.
        halves: guidance halves as middle and side.
        basis: a basis of channels for each head.
        gain: a gain for each map.
        weights: bits by how much an error matters, not by variance alone.
        groups: see `Constants.variance_channel`; -1: each unit by itself.
        prompts: calibrated on so many.
        composed: calibrated on composed prompts instead of single drawings.
        drawings: measured on single drawings instead of composed prompts.
        gradients: calibrated with gradients.
        size: of the pictures, ratio and pixel class.
        calibrated_at: likewise of those it is calibrated on.
    """

    name: str
    transform: bool = True
    halves: bool = True
    basis: bool = True
    gain: bool = True
    weights: bool = True
    groups: int = GROUPS
    prompts: int = 8
    composed: bool = False
    drawings: bool = False
    gradients: bool = False
    size: Size = OWN
    calibrated_at: Size = OWN

    @property
    def measured_on(self) -> tuple[bool, Size]:
        """What pictures; variants that are measured on the same ones are compared."""
        return self.drawings, self.size


VARIANTS = (
    Left("whole"),
    Left("no cosine transform", transform=False),
    Left("no middle and side", halves=False),
    Left("no channel basis", basis=False),
    Left("no gain", gain=False),
    Left("bits by variance only", weights=False),
    Left("one basis, bits by error, no maps, no halves (as KVTC)", False, False, weights=False),
    Left("none of transform, halves, basis, weights", False, False, False, weights=False),
    Left("channels alike in all bands", groups=1),
    Left("channels by unit", groups=-1),
    Left("weights by gradients", gradients=True),
    Left("weights by gradients, 16 calibration prompts", gradients=True, prompts=16),
    Left("16 calibration prompts", prompts=16),
    Left("2 calibration prompts", prompts=2),
    Left("calibrated on composed prompts", composed=True),
    Left("drawings, calibrated on drawings", drawings=True),
    Left("drawings, calibrated on composed prompts", composed=True, drawings=True),
    Left("2:1, calibrated at 2:1", size=WIDE, calibrated_at=WIDE),
    Left("2:1, calibrated at 1:1", size=WIDE),
    Left("0.25M, calibrated at 0.25M", size=LARGE, calibrated_at=LARGE),
    Left("0.25M, calibrated at 0.06M", size=LARGE),
)


def prompts_of(left: Left, limit: int) -> list[str]:
    """What a variant is measured on: none of the standard set, and none it is calibrated on."""
    return drawing_prompts()[:limit] if left.drawings else composed_prompts()[::2][:limit]


@contextmanager
def only(left: Left) -> Iterator[None]:
    """The rule without what is left out of its code."""
    never = 10**6
    coarse = units.COARSE if left.transform else never
    gains = codec.OfLayer.gains if left.gain else (1.0, 1.0)
    units.map_units.cache_clear()
    with (
        patch.object(units, "COARSE", coarse),
        patch.object(fitting, "COARSE", coarse),
        patch.object(codec.OfLayer, "gains", gains),
    ):
        yield
    units.map_units.cache_clear()


class _Plain(Moments):
    """Channels as they are for a basis."""

    def basis(self) -> torch.Tensor:
        """(N, 2, H, D, D): the identity."""
        return torch.eye(self.scatter.shape[-1], dtype=torch.float64).expand(self.scatter.shape)


def constants_of(pipeline: Pipeline, prompts: Sequence[str], left: Left) -> Constants:
    """Constants for what is left of the rule, measured on prompts."""
    ratio, pixels = left.calibrated_at
    request = Request(tuple(prompts), ratio=ratio, pixels=pixels)
    settled = settled_on(pipeline, replace(request, policy="full", batch_size=1))
    spec, schedule = pipeline.preset.transformer, settled.schedule
    groups = (len(schedule) - 1) * units.BANDS if left.groups == -1 else left.groups
    measure = ConstantsMeasure(pipeline, settled, groups, left.gradients)
    kind = Moments if left.basis else _Plain
    parts = 2 if left.halves else 1
    measure.moments = kind(schedule, spec.depth, spec.heads, spec.head_dim, parts)
    for observer, watching in (
        (measure.first, nullcontext()),
        (measure.second, measure.watching()),
    ):
        with watching, patched(pipeline.model, "full") as caches:
            caches.observer = observer
            for _ in generate(pipeline, request):
                pass
    calibrated = measure.constants({"model": pipeline.preset.name})
    if left.weights:
        return calibrated
    return replace(calibrated, weight_map=np.zeros_like(calibrated.weight_map))


def pictures(pipeline: Pipeline, prompts: Sequence[str], size: Size) -> NDArray[np.float64]:
    """(N, H, W, 3) of the prompts, drawn together with the caches that are patched in."""
    together = Request(tuple(prompts), seed=SEED, batch_size=TOGETHER, reproducible=False)
    request = replace(together, ratio=size[0], pixels=size[1])
    return np.stack(
        [np.asarray(one.image, dtype=np.float64) for one in generate(pipeline, request)]
    )


def decibels(
    pipeline: Pipeline,
    prompts: Sequence[str],
    full: NDArray[np.float64],
    left: Left,
    budget: str,
) -> list[float]:
    """PSNR of every prompt's picture against the full cache's, for a variant."""
    known = prompts_alone(calibration_prompts(pipeline.preset.name))
    if left.composed:
        known = tuple(composed_prompts()[1::8])
    with only(left):
        constants = constants_of(pipeline, known[: left.prompts], left)
        policy = CodedPolicy(constants)
        with patched(pipeline.model, policy, budget, guided=left.halves):
            coded = pictures(pipeline, prompts, left.size)
    error = np.maximum(((coded - full) ** 2).mean((1, 2, 3)), 1e-9)
    return [round(float(x), 3) for x in 10 * np.log10(255**2 / error)]


def energy(constants: Constants, pipeline: Pipeline) -> list[str]:
    """Lines of a table: mean energy of a coefficient by band, in decibels below the mean of its
    kind, keys and values, middle and side; and the share of the best quarter of channels."""
    schedule = settled_on(pipeline, Request(("a",), policy="full")).schedule
    lines = ["| | band 0 | 1 | 2 | 3 | 4 | 5 | best quarter of channels |", "|" + " --- |" * 8]
    for kind, what in enumerate(("keys", "values")):
        for part, side in enumerate(("middle", "side")):
            total, count, best = np.zeros(units.BANDS), np.zeros(units.BANDS), []
            for one in units.units_of(schedule):
                if not one.transformed:
                    continue
                for layer in range(constants.layers):
                    logs = constants.variances(layer, GUIDED, one)[kind, part] / OCTAVE
                    power = np.exp2(logs)  # (H, U, D)
                    for band, size, row in zip(
                        one.bands, one.sizes, np.moveaxis(power, 1, 0), strict=True
                    ):
                        total[band] += size * row.sum()
                        count[band] += size * row.size
                    all_bands = (power * np.array(one.sizes)[:, None]).sum(1)
                    ordered = np.sort(all_bands, axis=-1)[:, ::-1]
                    quarter = ordered[:, : ordered.shape[1] // 4].sum(-1) / ordered.sum(-1)
                    best.append(float(quarter.mean()))
            mean = total.sum() / count.sum()
            cells = [f"{10 * np.log10(x / mean):+.1f} dB" for x in total / count]
            share = f"{100 * np.mean(best):.0f} %"
            lines.append(f"| {what}, {side} | " + " | ".join(cells) + f" | {share} |")
    return lines


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown: a line a variant, each beside the first one on the same prompts."""
    lines = [
        "| variant | budget | prompts | PSNR to full (dB) | mean | to the whole, mean of pairs |",
        "|" + " --- |" * 6,
    ]
    first: dict[tuple[str, tuple[bool, Size]], NDArray[np.float64]] = {}
    for row in rows:
        psnr = np.array(row["psnr"])
        value, low, high = interval(psnr, median)
        whole = first.setdefault((row["budget"], _variant(row["name"]).measured_on), psnr)
        pairs = ""
        if whole is not psnr:
            pairs = "{:+.1f} ({:+.1f} to {:+.1f})".format(*interval(psnr - whole, mean))
        lines.append(
            f"| {row['name']} | {row['budget']} | {len(psnr)} | "
            f"{value:.1f} ({low:.1f} to {high:.1f}) | {psnr.mean():.1f} | {pairs} |"
        )
    return "\n".join(lines) + "\n"


def _variant(name: str) -> Left:
    return next(left for left in VARIANTS if left.name == name)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures what is missing, then writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/coded"))
    parser.add_argument("--budgets", nargs="+", default=["5%"])
    parser.add_argument("--limit", type=int, default=32, help="how many prompts")
    parser.add_argument("--dtype", default="bf16")
    names = [left.name for left in VARIANTS]
    parser.add_argument("--variants", nargs="+", choices=names, default=names, metavar="NAME")
    args = parser.parse_args(arguments)
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "ablation.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    done = {(row["name"], row["budget"]) for row in rows}
    pipeline = load("emoji", dtype=args.dtype)
    pipeline = replace(pipeline, preset=replace(pipeline.preset, ratios=()))  # any size
    full: dict[tuple[bool, Size], NDArray[np.float64]] = {}
    for budget in args.budgets:
        for left in map(_variant, args.variants):
            if (left.name, budget) in done:
                continue
            prompts = prompts_of(left, args.limit)
            if left.measured_on not in full:
                with patched(pipeline.model, "full"):
                    full[left.measured_on] = pictures(pipeline, prompts, left.size)
            psnr = decibels(pipeline, prompts, full[left.measured_on], left, budget)
            rows.append({"name": left.name, "budget": budget, "psnr": psnr})
            with path.open("a") as file:
                file.write(json.dumps(rows[-1]) + "\n")
            print(f"{left.name}, {budget}: {np.mean(psnr):.1f} dB", file=sys.stderr, flush=True)
    known = prompts_alone(calibration_prompts("emoji"))
    spectra = "\n".join(energy(constants_of(pipeline, known[:8], VARIANTS[0]), pipeline))
    rows.sort(key=lambda row: names.index(row["name"]))
    (args.out / "ablation.md").write_text(f"{table(rows)}\n{spectra}\n")
    print((args.out / "ablation.md").read_text())


if __name__ == "__main__":
    main()
