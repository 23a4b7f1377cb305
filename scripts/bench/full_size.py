"""Draw pictures with a filled model of full size; compare every byte of its cache with arithmetic.

python scripts/bench/filled_checkpoint.py infinity-2b --layout shards --out /tmp/filled
python scripts/bench/full_size.py infinity-2b /tmp/filled --pixels 0.06M 0.25M

Chance weights draw nothing to look at; what is tried is that the full size runs on this machine,
that activations stay finite, and that what the report says of memory is what the tensors take:
bytes held while each scale is generated, their peak, and the workspace. Exits with 1 where one
differs.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from scalekv.infinity_patch import Pipeline, Request, generate, load
from scalekv.infinity_patch.asked.settled import schedule_of
from scalekv.infinity_patch.generation.patch import patched
from scalekv.kv.caches.caches import Caches
from scalekv.kv.memory.predicted import CacheShape, predicted
from scalekv.kv.schedule import Schedule


@dataclass
class Watch:
    """What the tensors say while a picture is made."""

    caches: Caches
    held: list[int]
    finite: bool = True

    def __call__(self, block: nn.Module, inputs: Any, output: Tensor) -> None:
        """After the last block of every scale."""
        self.finite = self.finite and bool(output.isfinite().all())


def tried(pipeline: Pipeline, pixels: str, budget: str, prompt: str) -> list[str]:
    """One picture; what differs between its report, its tensors and the arithmetic."""
    spec = pipeline.preset.transformer
    request = Request((prompt,), pixels=pixels)
    schedule = schedule_of(request, pipeline.preset)
    policy = "full" if budget == "full" else "scalekv"
    start = time.perf_counter()
    with patched(pipeline.model, policy=policy, budget=budget, schedule=schedule) as caches:
        watch = Watch(caches, [])
        hook = pipeline.model.blocks[-1].register_forward_hook(watch)
        try:
            picture = next(
                generate(pipeline, request, on_progress=lambda _: watch.held.append(caches.nbytes))
            )
        finally:
            hook.remove()
        planned = caches.budget
    seconds = time.perf_counter() - start
    element = pipeline.dtype.itemsize
    shape = CacheShape(spec.depth, 2, spec.heads, spec.head_dim, element, element)
    expected = predicted(schedule, shape, None if policy == "full" else planned)
    full = plain_full_bytes(schedule, spec.depth, spec.width, element)
    ledger = picture.cache
    rows = tuple(row["held_bytes"] for row in ledger["scales"])
    checks = {
        "report of the scales": (rows, expected.scale_bytes),
        "tensors of the scales": (tuple(watch.held[:-1]), expected.scale_bytes[1:]),
        "held peak": (ledger["held_peak_bytes"], expected.held_peak_bytes),
        "transient peak": (ledger["transient_peak_bytes"], expected.transient_peak_bytes),
        "full cache": (ledger["full_bytes"], full),
    }
    if policy == "full":
        checks["full cache held"] = (ledger["held_peak_bytes"], full)
    problems = [f"{name}: {a} and {b}" for name, (a, b) in checks.items() if a != b]
    if not watch.finite:
        problems.append("hidden states are not finite")
    width, height = picture.image.size
    print(
        f"{pixels:6} {budget:5} {width}x{height}  {seconds:7.1f} s  held at most "
        f"{ledger['held_peak_bytes']:>13,}  of {full:>13,}  workspace "
        f"{ledger['transient_peak_bytes']:>11,}  {'; '.join(problems) or 'exact'}",
        flush=True,
    )
    return problems


def plain_full_bytes(schedule: Schedule, depth: int, width: int, element: int) -> int:
    """k and v of all tokens but the last scale's, both guidance halves, written out."""
    history = sum(h * w for h, w in schedule.scales[:-1])
    return history * depth * 2 * width * 2 * element


def main() -> int:
    """One line a picture."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="a preset")
    parser.add_argument("weights", type=Path, help="a folder with its files")
    parser.add_argument("--pixels", nargs="+", default=["0.06M", "0.25M"])
    parser.add_argument("--budgets", nargs="+", default=["full", "10%"])
    parser.add_argument("--dtype", default="bf16")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    pipeline = load(args.model, device="cpu", dtype=args.dtype, weights_dir=args.weights)
    problems = []
    for pixels in args.pixels:
        for budget in args.budgets:
            problems += tried(pipeline, pixels, budget, "a red apple")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
