"""How often pictures drawn in a batch are the ones drawn alone, to the bit.

    python -m scripts.bench.batch_agreement --pictures 48 --sizes 2 4 8 --dtypes fp32 bf16

Draws the same prompts and seeds one at a time and in batches, on one device in one process, and
prints a table in markdown: for every dtype, budget and batch size how many pictures are equal to
the bit, by how much colour values differ in the mean of those that are not, and seconds a picture.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace

import numpy as np
from PIL import Image

from scalekv.infinity_patch import Request, generate, load

SUBJECTS = (
    "an owl",
    "a red apple on a wooden table",
    "a fox",
    "a pizza with cheese and olives, seen from above",
    "a blue car",
    "a house",
    "a smiling face with a hat",
    "a heart",
)


def drawn(pipeline: object, request: Request) -> tuple[list[Image.Image], float]:
    """The pictures, and seconds a picture."""
    start = time.perf_counter()
    images = [picture.image for picture in generate(pipeline, request)]  # type: ignore[arg-type]
    return images, (time.perf_counter() - start) / len(images)


def row(alone: list[Image.Image], together: list[Image.Image]) -> tuple[int, float]:
    """Pictures that are equal, and the mean difference of a colour value in the others."""
    pairs = [(np.asarray(a, int), np.asarray(b, int)) for a, b in zip(alone, together, strict=True)]
    others = [abs(a - b).mean() for a, b in pairs if not np.array_equal(a, b)]
    return len(pairs) - len(others), float(np.mean(others)) if others else 0.0


def main() -> int:
    """Runs it and returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="emoji")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtypes", nargs="+", default=["fp32", "bf16"])
    parser.add_argument("--sizes", nargs="+", type=int, default=[2, 4, 8])
    parser.add_argument("--budgets", nargs="+", default=["10%", "full"])
    parser.add_argument("--pictures", type=int, default=48)
    chosen = parser.parse_args()
    prompts = tuple(SUBJECTS[i % len(SUBJECTS)] for i in range(chosen.pictures))
    print(
        "| dtype | budget | batch | equal pictures | difference of the others | s/picture | alone |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for dtype in chosen.dtypes:
        pipeline = load(chosen.model, device=chosen.device, dtype=dtype)
        for budget in chosen.budgets:
            asked = Request(prompts, budget=budget, reproducible=True)
            next(generate(pipeline, asked))  # warm-up
            alone, seconds = drawn(pipeline, asked)
            for size in chosen.sizes:
                request = replace(asked, batch_size=size, reproducible=False)
                together, shared = drawn(pipeline, request)
                equal, apart = row(alone, together)
                print(
                    f"| {dtype} | {budget} | {size} | {equal} of {len(alone)} | {apart:.2f} of 255 "
                    f"| {shared:.2f} | {seconds:.2f} |",
                    flush=True,
                )
    return 0


if __name__ == "__main__":
    sys.exit(main())
