"""What the text encoder's precision costs, beside what a compressed cache does.

    python -m scripts.evaluate.text_dtype --prompts 32

Against fp32 text and the full cache, at equal prompts and seeds: the share of bits that would have
been drawn alike where the reference's bits are forced, the PSNR of pictures drawn freely, and how
far features lie apart; in the mean over prompts, with 95 % bootstrap intervals. Prompts are the
built-in model's held-out ones.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from scalekv.infinity_patch import Pipeline, Request, generate, load
from scalekv.infinity_patch.evaluation.statistics import interval, mean, median
from scalekv.infinity_patch.files.hub import model_files
from scalekv.infinity_patch.generation.forced import force_bits
from scalekv.infinity_patch.generation.pipeline import settled_on
from scalekv.infinity_patch.likeness import likeness
from scalekv.infinity_patch.loading.text_files import read_text_encoder
from scalekv.infinity_patch.model.text import TextPrecision
from scripts.evaluate.prompts import heldout_prompts

TEXTS = {
    "bf16": (torch.bfloat16, False),
    "int8": (torch.float32, True),
    "int8, bf16 products": (torch.bfloat16, True),
}
SMALL_CACHE = "scalekv 10%"
SIDES = (*TEXTS, SMALL_CACHE)


@dataclass
class TextSide:
    """What one side is like on the prompts so far."""

    agreement: list[float] = field(default_factory=list)
    psnr: list[float] = field(default_factory=list)
    identical: int = 0
    apart: list[float] = field(default_factory=list)

    def row(self, name: str) -> str:
        """A line of the table."""
        cells = [
            _shown(interval([100 * a for a in self.agreement], mean), 2, "%"),
            _shown(interval(self.psnr, median), 1, " dB"),
            f"{self.identical} of {len(self.psnr)}",
            _shown(interval([100 * a for a in self.apart], mean), 2, "%") if self.apart else "",
        ]
        return f"| {name} | {' | '.join(cells)} |"


def run(pipeline: Pipeline, prompts: Sequence[str], chosen: Sequence[str]) -> dict[str, TextSide]:
    """The chosen sides on every prompt, each with its number as the seed."""
    folder = model_files(pipeline.preset, pipeline.weights_dir).text_encoder
    exact = pipeline.text
    texts = {
        name: read_text_encoder(folder, TextPrecision(pipeline.device, dtype, in_8_bits))
        for name, (dtype, in_8_bits) in TEXTS.items()
        if name in chosen
    }
    sides = {name: TextSide() for name in chosen}
    for seed, prompt in enumerate(prompts):
        full, small = (Request((prompt,), policy, seed=seed) for policy in ("full", "scalekv"))
        pipeline.text = exact
        reference = next(generate(pipeline, full)).image
        bits = force_bits(pipeline, settled_on(pipeline, full), prompt, seed).bits
        (features,) = exact.encode([prompt])
        for name, side in sides.items():
            pipeline.text = texts.get(name, exact)
            request = full if name in texts else small
            forced = force_bits(pipeline, settled_on(pipeline, request), prompt, seed, bits)
            like = likeness(next(generate(pipeline, request)).image, reference)
            side.agreement.append(forced.agreement)
            side.psnr.append(like.psnr)
            side.identical += like.identical
            if name in texts:
                side.apart.append(_apart(texts[name].encode([prompt])[0], features))
        print(f"{seed + 1} of {len(prompts)}: {prompt}", file=sys.stderr, flush=True)
    pipeline.text = exact
    return sides


def _apart(one: Tensor, other: Tensor) -> float:
    """Length of the difference in terms of the other's own."""
    return float((one - other).norm() / other.norm())


def _shown(found: tuple[float, float, float], digits: int, unit: str) -> str:
    value, low, high = (f"{x:.{digits}f}" if np.isfinite(x) else "equal" for x in found)
    return f"{value}{unit} ({low} to {high})"


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="emoji")
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--sides", nargs="+", default=SIDES, choices=SIDES)
    options = parser.parse_args()
    pipeline = load(options.model, device="cpu", dtype="fp32")
    sides = run(pipeline, heldout_prompts()[: options.prompts], options.sides)
    print("| text | bits drawn alike | PSNR, median | identical | features apart |")
    print("| --- | --- | --- | --- | --- |")
    for name, side in sides.items():
        print(side.row(name))


if __name__ == "__main__":
    main()
