"""Time the scales of one picture with filled weights: the full cache against policies, in turn.

    python -m scripts.bench.transformer --pixels 0.25M 1M --side full --side scalekv:paper-10

Weights are random, made in memory in the dtype of the run, so that no file is needed. All blocks
are alike: `--blocks 4` gives the shares of a deeper model in less time.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F

from scalekv.configs.models import ModelPreset, model_named
from scalekv.infinity_patch.asked.budgets import read_budget
from scalekv.infinity_patch.compute import products
from scalekv.infinity_patch.generation import patch
from scalekv.infinity_patch.model import transformer
from scalekv.infinity_patch.model.sampling import BitSampler
from scalekv.infinity_patch.model.scale_loop import Guidance, conditions, generate_codes
from scalekv.infinity_patch.model.transformer import Infinity
from scalekv.infinity_patch.schedules import schedule_for
from scalekv.kv.budgets.asked import capacities_for
from scalekv.kv.budgets.budget import Budget
from scalekv.kv.caches.layer import LayerCache
from scalekv.kv.caches.workspace import Workspace
from scalekv.kv.dtypes import TORCH_DTYPES
from scalekv.kv.policies.coded import CodedPolicy
from scalekv.kv.policies.policy import Policy
from scalekv.kv.policies.registry import policy_named
from scalekv.kv.schedule import Schedule
from scripts.bench.sides import (
    CLOCKS,
    Clock,
    PeakMemory,
    bare_attention,
    bare_linear,
    heading,
    matrix_rate,
    measure_by,
    memory_rate,
    now,
    table,
)
from scripts.bench.stretched import stretched

PROMPT_TOKENS = 20


def filled(preset: ModelPreset, blocks: int, dtype: torch.dtype, device: torch.device) -> Infinity:
    """A transformer of the preset's sizes with `blocks` blocks of random weights in `dtype`."""
    spec = replace(preset.transformer, depth=blocks, chunks=1)
    with torch.device("meta"):
        model = Infinity(spec, preset.tokenizer.token_bits)
    inside = {id(p) for p in model.block_chunks.parameters()}
    generator = torch.Generator(device).manual_seed(0)
    state = {}
    for name, p in model.named_parameters():
        tensor = torch.empty(p.shape, dtype=dtype if id(p) in inside else None, device=device)
        scale = p.shape[-1] ** -0.5 if p.ndim == 2 else 0.1
        tensor.normal_(0, scale, generator=generator)
        if name.endswith("scale_mul_1H11"):
            tensor.fill_(2.3)  # queries ten times as long as keys, as trained models have them
        if name.endswith("norm.weight"):
            tensor.fill_(1)
        state[name] = tensor
    model.load_state_dict(state, assign=True)
    return model.eval().requires_grad_(False)


class TimedSide:
    """One way to run the model: a policy with a budget, or the model unpatched."""

    def __init__(self, text: str, model: Infinity, preset: ModelPreset) -> None:
        self.name = text
        self.policy, _, self.budget = text.partition(":")
        self.model, self.preset = model, preset
        self.read = read_budget(self.budget or "full", preset.transformer.depth, preset.name)
        if self.read.in_bytes:
            raise SystemExit(f"--side {text}: a share or a number of tokens, not bytes")

    def inside(self, schedule: Schedule) -> Any:
        """What to run a picture in."""
        if self.policy == "unpatched":
            return nullcontext()
        policy: str | Policy = self.policy
        if self.policy == CodedPolicy.name and self.model.preset_name is None:
            spec = self.model.spec
            policy = CodedPolicy(stretched(spec.depth, spec.heads, spec.head_dim))
        budget = self._budget(schedule)
        return patch.patched(self.model, policy, budget, schedule, guided=True)

    def _budget(self, schedule: Schedule) -> Budget:
        depth, known = self.model.spec.depth, self.preset.transformer.depth
        whole = self.read.on(schedule)
        if depth == known:
            return whole
        # of a model cut short, the drafters that are left
        drafters = [tuple(d for d in row if d < depth) for row in whole.drafters]
        cut = capacities_for(schedule, depth, drafters, whole.mean, whole.window, label=whole.label)
        return replace(cut, percent=whole.percent)


def picture(side: TimedSide, schedule: Schedule, device: torch.device, batch: int) -> None:
    """All scales of `batch` pictures, sampling included, decoding not."""
    preset, scales = side.preset, len(schedule)
    cfg, tau = preset.sampling.cfg, preset.sampling.tau
    guidance = Guidance((cfg,) * scales, (tau,) * scales)
    generator = torch.Generator().manual_seed(1)
    text = torch.randn(PROMPT_TOKENS, preset.transformer.text_width, generator=generator).to(device)
    with torch.inference_mode(), side.inside(schedule):
        generate_codes(
            side.model,
            conditions(side.model, [text] * batch, None, guidance),
            schedule,
            preset.tokenizer.patchify,
            guidance,
            BitSampler(list(range(batch)), preset.sampling.top_p),
        )
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def watched(policy: str) -> list[tuple[Any, str, str]]:
    """What is timed apart: the functions that do the work, by part."""
    kept: list[tuple[Any, str, str]] = [
        (products, "linear", "linear"),
        (patch, "attend", "self-attention"),
        (transformer, "attend", "self-attention"),
        (F, "scaled_dot_product_attention", "cross-attention"),
        (Workspace, "joined", "join"),
        (LayerCache, "keep", "keep"),
        (BitSampler, "__call__", "sampling"),
    ]
    if policy != "unpatched":
        kept.append((type(policy_named(policy)), "select", "selection"))
    return kept


@dataclass
class Result:
    """Runs of one side at one size: seconds of each, what they were spent on, bytes of memory."""

    side: TimedSide
    seconds: list[float] = field(default_factory=list)
    clock: Clock = field(default_factory=Clock)
    peak: int = 0

    @property
    def median(self) -> float:
        """Seconds of the middle run."""
        return statistics.median(self.seconds)

    def share(self, *parts: str) -> float:
        """Part of all runs' time spent in `parts`."""
        inside = sum(p.seconds for name, p in self.clock.parts.items() if name in parts)
        return inside / sum(self.seconds)

    def flops(self) -> float:
        """Counted operations of one run."""
        return sum(p.flops for p in self.clock.parts.values()) / len(self.seconds)


def measure(
    sides: list[TimedSide],
    schedule: Schedule,
    repeats: int,
    device: torch.device,
    batch: int,
    resident: int,
) -> list[Result]:
    """Run all sides in turn, `repeats` times; `resident` bytes were in use before any run."""
    results = [Result(side) for side in sides]
    memory = PeakMemory()
    for _ in range(repeats):
        for result in results:
            gc.collect()
            memory.forget()
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)
            with result.clock.watching(*watched(result.side.policy)):
                start = now()
                picture(result.side, schedule, device, batch)
                result.seconds.append(now() - start)
            peak = memory.peak()
            if device.type == "cuda":
                peak = torch.cuda.max_memory_allocated(device)
            result.peak = max(result.peak, peak - resident)
            print(f"{result.side.name} {result.seconds[-1]:.2f} s", file=sys.stderr, flush=True)
    return results


def report(pixels: str, results: list[Result], cpu: bool) -> str:
    """One row a side: seconds, ratio to the first side, counted work, and on a CPU the shares."""
    columns = ["pixels", "side", "seconds", "ratio", "TFLOP", "ratio", "TFLOP/s", "peak GB"]
    shares = [
        ("linear", ("linear",)),
        ("self-att.", ("self-attention",)),
        ("cross-att.", ("cross-attention",)),
        ("selection", ("selection",)),
        ("join + keep", ("join", "keep")),
        ("sampling", ("sampling",)),
    ]
    first, rows = results[0], []
    for result in results:
        flops = result.flops()
        row = [pixels, result.side.name, f"{result.median:.2f}"]
        row += [f"{result.median / first.median:.3f}", f"{flops / 1e12:.2f}"]
        row += [f"{flops / first.flops():.3f}", f"{flops / result.median / 1e12:.3f}"]
        row += [f"{result.peak / 1e9:.2f}"]
        if cpu:
            row += [f"{result.share(*parts):.1%}" for _, parts in shares]
        rows.append(row)
    return table(columns + ([name for name, _ in shares] if cpu else []), rows)


def ceilings(pixels: str, results: list[Result], model: Infinity) -> str:
    """How much of the speed of the bare operations, at the run's own shapes, each part reaches."""
    weights = [p for p in model.parameters() if p.ndim == 2]
    rows = []
    for result in results:
        parts, runs = result.clock.parts, len(result.seconds)
        for name, bare in (
            ("linear", bare_linear(parts["linear"], weights)),
            ("self-attention", bare_attention(parts["self-attention"])),
        ):
            part = parts[name]
            counted = (f"{part.flops / runs / 1e12:.2f}", f"{part.bytes / runs / 1e9:.1f}")
            taken = (f"{part.seconds / runs:.2f}", f"{bare / runs:.2f}")
            rows.append(
                [pixels, result.side.name, name, *counted, *taken, f"{bare / part.seconds:.0%}"]
            )
    columns = ["pixels", "side", "part", "TFLOP", "GB moved", "seconds", "bare", "share of bare"]
    return table(columns, rows)


def profiled(side: TimedSide, schedule: Schedule, device: torch.device, batch: int) -> str:
    """The operations of one run that take most time, as torch.profiler counts them."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profiler:
        picture(side, schedule, device, batch)
    key = "self_cpu_time_total" if device.type == "cpu" else "self_device_time_total"
    averages = profiler.key_averages()
    spent = {e.key: getattr(e, key) / 1e6 for e in averages}
    calls = {e.key: e.count for e in averages}
    whole = sum(spent.values())
    most = sorted(spent, key=lambda name: -spent[name])[:15]
    rows = [[n, f"{spent[n]:.2f}", f"{spent[n] / whole:.1%}", str(calls[n])] for n in most]
    return table(["operation", "seconds", "share", "calls"], rows)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="infinity-2b", help="a preset; its sizes are used")
    parser.add_argument("--blocks", type=int, help="blocks of the model; all of them if left out")
    parser.add_argument("--pixels", nargs="+", default=["0.06M", "0.25M"])
    parser.add_argument(
        "--side",
        action="append",
        help="POLICY[:BUDGET] or `unpatched`; the first is what the others are compared with",
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--dtype", choices=sorted(TORCH_DTYPES), default="bf16")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int)
    parser.add_argument(
        "--clock",
        choices=sorted(CLOCKS),
        default="wall",
        help="cpu: seconds of one thread's work, for a machine that others use too",
    )
    parser.add_argument("--ceilings", action="store_true", help="time the bare operations too")
    parser.add_argument("--profile", action="store_true", help="list each side's top operations")
    return parser.parse_args()


def main() -> None:
    """Print the tables."""
    args = arguments()
    measure_by(args.clock)
    if args.threads or args.clock == "cpu":
        torch.set_num_threads(1 if args.clock == "cpu" else args.threads)
    device, dtype = torch.device(args.device), TORCH_DTYPES[args.dtype]
    preset = model_named(args.model)
    model = filled(preset, args.blocks or preset.transformer.depth, dtype, device)
    sides = [TimedSide(text, model, preset) for text in args.side or ["full", "scalekv:10%"]]
    print(f"{args.model}, {model.spec.depth} blocks, {args.dtype}, batch {args.batch}, guidance")
    print(f"{heading(device)}; seconds by the {args.clock} clock")
    if device.type == "cpu":
        print(
            f"bare: {matrix_rate(dtype) / 1e12:.2f} TFLOP/s in {args.dtype}, "
            f"{matrix_rate(torch.float32) / 1e12:.2f} in fp32, {memory_rate() / 1e9:.1f} GB/s"
        )
    for side in sides:  # one-off costs, kept out of the times
        picture(side, schedule_for("1:1", "0.06M"), device, args.batch)
    gc.collect()
    memory = PeakMemory()
    memory.forget()
    resident = memory.now()
    if device.type == "cuda":
        resident = torch.cuda.memory_allocated(device)
    for pixels in args.pixels:
        schedule = schedule_for("1:1", pixels)
        results = measure(sides, schedule, args.repeats, device, args.batch, resident)
        print("\n" + report(pixels, results, device.type == "cpu"), flush=True)
        if args.ceilings and device.type == "cpu":
            print("\n" + ceilings(pixels, results, model), flush=True)
        if args.profile:
            for side in sides:
                print(f"\n{pixels}, {side.name}:\n")
                print(profiled(side, schedule, device, args.batch), flush=True)


if __name__ == "__main__":
    main()
