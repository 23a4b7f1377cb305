"""Time whole pictures of an installed model, what it takes to start, and how far bf16 is from fp32.

    python -m scripts.bench.generate --threads 1 2

Three tables: warm seconds a picture and their shares; a command's start, in processes of its own;
the share of bits that bf16 draws as fp32 does from the same stream, scale by scale on fp32's bits.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from scalekv.infinity_patch import Pipeline, Request, generate, load
from scalekv.infinity_patch.compute import products
from scalekv.infinity_patch.generation import patch
from scalekv.infinity_patch.generation.patch import patched
from scalekv.infinity_patch.loading.placement import Placement
from scalekv.infinity_patch.model import transformer
from scalekv.infinity_patch.model.autoencoder import Autoencoder
from scalekv.infinity_patch.model.sampling import BitSampler
from scalekv.infinity_patch.model.scale_loop import Guidance, conditions, generate_codes
from scalekv.infinity_patch.schedules import schedule_for
from scripts.bench.sides import CLOCKS, Clock, heading, measure_by, now, table

PROMPTS = ("a red apple", "an octopus", "a dog face", "a pizza", "a house")
MAIN = ("-c", "from scalekv.cli.main import main; main()")
COMMANDS = {
    "python": ["-c", "pass"],
    "import torch": ["-c", "import torch"],
    "scalekv --version": [*MAIN, "--version"],
    "scalekv generate, refused": [*MAIN, "generate", "x", "--budget", "0%"],
    "scalekv generate, one picture": [*MAIN, "generate", "a red apple", "--out", "OUT"],
}


def warm(model: str, dtype: str, side: str, threads: int, pictures: int) -> list[str]:
    """One row: median seconds a picture, and the shares of its parts."""
    pipeline = load(model, device="cpu", dtype=dtype, placement=Placement(threads=threads))
    policy, _, budget = side.partition(":")
    asked = Request(PROMPTS[:1], policy=policy, budget=budget or None)
    next(generate(pipeline, asked))
    clock, taken = Clock(), []
    watched = [
        (products, "linear", "linear"),
        *((module, "attend", "self-attention") for module in (patch, transformer)),
        (F, "scaled_dot_product_attention", "cross-attention"),
        (Autoencoder, "decode", "decode"),
    ]
    with clock.watching(*watched):
        for seed in range(pictures):
            start = now()
            next(generate(pipeline, replace(asked, seed=seed)))
            taken.append(now() - start)
    shares = {name: part.seconds / sum(taken) for name, part in clock.parts.items()}
    shown = ("linear", "self-attention", "cross-attention", "decode")
    rest = 1 - sum(shares.values())
    row = [side, dtype, str(threads), f"{statistics.median(taken):.3f}", f"{min(taken):.3f}"]
    return [*row, *(f"{shares[name]:.1%}" for name in shown), f"{rest:.1%}"]


def starts(repeats: int) -> list[list[str]]:
    """Wall seconds and processor seconds of commands, each in a process of its own."""
    rows = []
    for name, arguments in COMMANDS.items():
        wall, busy = [], []
        for _ in range(repeats):
            with tempfile.TemporaryDirectory() as out:
                command = [sys.executable, *(out if a == "OUT" else a for a in arguments)]
                before = _busy()
                start = time.perf_counter()
                subprocess.run(command, check=False, capture_output=True)
                wall.append(time.perf_counter() - start)
                busy.append(_busy() - before)
        rows.append([name, f"{statistics.median(wall):.2f}", f"{statistics.median(busy):.2f}"])
    return rows


def _busy() -> float:
    """Processor seconds of all processes started and ended so far."""
    times = os.times()
    return times.children_user + times.children_system


def agreement(model: str, side: str) -> list[list[str]]:
    """Per prompt: bits drawn alike on the same coarser bits, and how alike free pictures are."""
    exact, half = (load(model, device="cpu", dtype=dtype) for dtype in ("fp32", "bf16"))
    policy, _, budget = side.partition(":")
    rows = []
    for seed, prompt in enumerate(PROMPTS):
        drawn: list[Tensor] = []
        same: list[Tensor] = []

        def freely(scale: int, bits: Tensor, drawn: list[Tensor] = drawn) -> Tensor:
            drawn.append(bits)
            return bits

        def forced(
            scale: int, bits: Tensor, drawn: list[Tensor] = drawn, same: list[Tensor] = same
        ) -> Tensor:
            same.append((bits == drawn[scale]).flatten())
            return drawn[scale]

        _codes(exact, prompt, seed, policy, budget, freely)
        _codes(half, prompt, seed, policy, budget, forced)
        asked = Request((prompt,), seed=seed, policy=policy, budget=budget or None)
        images = [np.asarray(next(generate(p, asked)).image, dtype=float) for p in (exact, half)]
        error = np.mean((images[0] - images[1]) ** 2)
        psnr = "identical" if error == 0 else f"{10 * np.log10(255**2 / error):.1f}"
        alike = float(torch.cat(same).float().mean())
        rows.append([prompt, f"{alike:.2%}", f"{float(same[-1].float().mean()):.2%}", psnr])
    return rows


def _codes(
    pipeline: Pipeline,
    prompt: str,
    seed: int,
    policy: str,
    budget: str,
    then: Callable[[int, Tensor], Tensor],
) -> None:
    """One picture, in which `then(scale, drawn bits)` says which bits to go on with."""
    preset = pipeline.preset
    schedule = schedule_for("1:1", preset.pixels)
    scales, sampling = len(schedule), preset.sampling
    guidance = Guidance((sampling.cfg,) * scales, (sampling.tau,) * scales)
    sampler = BitSampler([seed], sampling.top_p)
    text = pipeline.text.encode([prompt])
    with torch.inference_mode(), patched(pipeline.model, policy, budget or "full", schedule):
        generate_codes(
            pipeline.model,
            conditions(pipeline.model, text, None, guidance),
            schedule,
            preset.tokenizer.patchify,
            guidance,
            lambda scale, logits: then(scale, sampler(scale, logits)),
        )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="emoji")
    parser.add_argument("--side", action="append", help="POLICY[:BUDGET]")
    parser.add_argument("--dtype", nargs="+", default=["fp32", "bf16"])
    parser.add_argument("--threads", nargs="+", type=int, default=[torch.get_num_threads()])
    parser.add_argument("--pictures", type=int, default=7)
    parser.add_argument("--clock", choices=sorted(CLOCKS), default="wall")
    args = parser.parse_args()
    sides = args.side or ["full", "scalekv:10%"]
    measure_by(args.clock)
    print(f"{args.model}\n{heading(torch.device('cpu'))}; seconds by the {args.clock} clock\n")
    columns = ["side", "dtype", "threads", "seconds", "least", "linear", "self-attention"]
    rows = [
        warm(args.model, dtype, side, threads, args.pictures)
        for threads in args.threads
        for dtype in args.dtype
        for side in sides
    ]
    print(table([*columns, "cross-attention", "decode", "rest"], rows), flush=True)
    print("\n" + table(["start", "seconds", "CPU seconds"], starts(3)), flush=True)
    for side in sides:
        print(f"\nbf16 against fp32, {side}:\n")
        columns = ["prompt", "equal bits", "of the last scale", "PSNR of free pictures, dB"]
        print(table(columns, agreement(args.model, side)), flush=True)


if __name__ == "__main__":
    main()
