"""What weights in 8 bits cost in pictures, beside what a small cache costs.

    python -m scripts.evaluate.weights --limit 24

The same prompts and seeds are drawn with weights in float32, bf16, int8 and fp8 and the full cache,
and in bf16 with a small one. Each way is held against bf16's and float32's full
cache: the median PSNR of its own pictures, the share of their bits that are equal, and that of the
bits it would draw alike were all before them the other's. On a CPU fp8 is of the weights alone;
GPUs that can multiply in it. A Markdown table goes to stdout, with 95 % bootstrap intervals; after
Ctrl-C it is of the prompts that were done.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from scalekv.infinity_patch import Pipeline, Placement, Request, load
from scalekv.infinity_patch.evaluation.captions import read_captions
from scalekv.infinity_patch.evaluation.drawing import DrawnPicture, draw_with_bits
from scalekv.infinity_patch.evaluation.statistics import interval, mean, median
from scalekv.infinity_patch.generation.forced import force_bits
from scalekv.infinity_patch.generation.pipeline import settled_on
from scripts.bench.sides import heading, table
from scripts.evaluate.exits import exit_code
from scripts.evaluate.measures import alike
from scripts.evaluate.prompts import heldout_prompts

Way = tuple[str, str]
"""How weights are held, and the budget: "int8", "full"."""


@dataclass
class HeldAgainst:
    """One way against another, a value a prompt: decibels, and shares of bits."""

    psnr: list[float] = field(default_factory=list)
    equal: list[float] = field(default_factory=list)
    forced: list[float] = field(default_factory=list)


def request_for(way: Way, prompt: str, seed: int) -> Request:
    """One picture in a way."""
    policy = "full" if way[1] == "full" else "scalekv"
    return Request((prompt,), policy=policy, budget=way[1], seed=seed, truncate=True)


def compare(
    pipelines: dict[str, Pipeline],
    pairs: Sequence[tuple[Way, Way]],
    prompts: Sequence[str],
    found: dict[tuple[Way, Way], HeldAgainst],
) -> Iterator[str]:
    """Adds each prompt's values to `found`; yields a line to show after each."""
    for seed, prompt in enumerate(prompts):
        drawn: dict[Way, DrawnPicture] = {}
        for way in dict.fromkeys(way for pair in pairs for way in pair):
            drawn[way] = draw_with_bits(pipelines[way[0]], request_for(way, prompt, seed))
        for way, other in pairs:
            held = found.setdefault((way, other), HeldAgainst())
            picture, reference = drawn[way], drawn[other]
            held.psnr.append(alike(picture.picture, reference.picture).psnr)
            mine, others = (torch.cat([b.flatten() for b in p.bits]) for p in (picture, reference))
            held.equal.append(float((mine == others).double().mean()))
            pipeline = pipelines[way[0]]
            settled = settled_on(pipeline, request_for(way, prompt, seed))
            bits = [part[None] for part in reference.bits]
            held.forced.append(force_bits(pipeline, settled, prompt, seed, bits).agreement)
        yield f"{seed + 1} of {len(prompts)}: {prompt}"


def rows_of(found: dict[tuple[Way, Way], HeldAgainst]) -> list[list[str]]:
    """Of the table."""
    rows = []
    for (way, other), held in found.items():
        db = "{:.1f} ({:.1f} to {:.1f})".format(*interval(held.psnr, median))
        shares = (
            "{:.2%} ({:.2%} to {:.2%})".format(*interval(values, mean))
            for values in (held.equal, held.forced)
        )
        rows.append([way[0], way[1], f"{other[0]}, {other[1]}", db, *shares])
    return rows


def run(args: argparse.Namespace) -> None:
    """Draws and prints.

    Raises:
        UserError: a request that cannot be fulfilled.
    """
    prompts = heldout_prompts()
    if args.prompts is not None:
        prompts = list(read_captions(args.prompts).texts)
    pipelines = {
        weights: load(
            args.model,
            device=args.device,
            dtype="fp32" if weights == "fp32" else "bf16",
            weights_dir=args.weights_dir,
            placement=Placement(weights=weights, threads=1),
        )
        for weights in ("fp32", "bf16", "int8", "fp8")
    }
    fp32, bf16, int8, fp8 = ((weights, "full") for weights in pipelines)
    small = ("bf16", args.budget)
    pairs = [*((way, bf16) for way in (int8, fp8, small))]
    pairs += [(way, fp32) for way in (bf16, int8, fp8, small)]
    found: dict[tuple[Way, Way], HeldAgainst] = {}
    try:
        for line in compare(pipelines, pairs, prompts[: args.limit], found):
            print(line, file=sys.stderr, flush=True)
    except KeyboardInterrupt:
        if not found:
            raise
    done = min(len(held.forced) for held in found.values())
    columns = ["weights", "cache", "held against", "PSNR (dB)", "equal bits", "bits drawn alike"]
    print(f"{args.model}, {done} prompts, seeds from 0")
    print(f"{heading(pipelines['bf16'].device)}; {pipelines['fp8'].computing}\n")
    print(table(columns, rows_of(found)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="emoji")
    parser.add_argument("--weights-dir")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--budget", default="10%", help="of the small cache")
    parser.add_argument("--prompts", type=Path, help="a line each, or COCO captions as .json")
    parser.add_argument("--limit", type=int, default=24, help="how many of the prompts")
    args = parser.parse_args(arguments)
    return exit_code(lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
