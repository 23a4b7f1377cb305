"""Time one picture with the weights in bf16 and in 8 bits, in turn, in one process.

    python -m scripts.bench.weights --model infinity-2b --blocks 4 --pixels 0.25M --clock cpu

Weights are random, made in memory; all blocks are alike, so that a few give the ratio of many. What
a ratio counts is all scales of a picture, sampling included and decoding not.
"""

from __future__ import annotations

import argparse
import statistics
import sys

import torch

from scalekv.configs.models import model_named
from scalekv.configs.spec import EIGHT_BITS
from scalekv.infinity_patch.compute.quantised import KINDS, QuantisedLinear, quantised
from scalekv.infinity_patch.loading.reading import hold_in_8_bits
from scalekv.infinity_patch.model.transformer import Infinity
from scalekv.infinity_patch.schedules import schedule_for
from scripts.bench.sides import CLOCKS, heading, measure_by, now, table
from scripts.bench.transformer import TimedSide, filled, picture


def in_8_bits(model: Infinity, kind: str) -> Infinity:
    """The same model with the weights of its blocks in 8 bits; the rest is shared."""
    with torch.device("meta"):
        other = Infinity(model.spec, model.token_bits)
    hold_in_8_bits(other, kind, model.compute_dtype)
    state = dict(model.state_dict())
    for name, layer in other.named_modules():
        if isinstance(layer, QuantisedLinear):
            whole = state[f"{name}.weight"]
            held = quantised(whole, KINDS[kind], whole.device)
            state[f"{name}.weight"], state[f"{name}.weight_scale"] = held
    other.load_state_dict(state, assign=True)
    return other.eval().requires_grad_(False)


def main() -> None:
    """Print a table a size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="infinity-2b", help="a preset; its sizes are used")
    parser.add_argument("--blocks", type=int, help="blocks of the model; all of them if left out")
    parser.add_argument("--pixels", nargs="+", default=["0.25M"])
    parser.add_argument("--weights", nargs="+", choices=EIGHT_BITS, default=["int8"])
    parser.add_argument("--side", default="scalekv:10%", help="POLICY[:BUDGET]")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--clock", choices=sorted(CLOCKS), default="wall", help="cpu: one thread's")
    args = parser.parse_args()
    measure_by(args.clock)
    if args.threads or args.clock == "cpu":
        torch.set_num_threads(1 if args.clock == "cpu" else args.threads)
    device, preset = torch.device(args.device), model_named(args.model)
    blocks = args.blocks or preset.transformer.depth
    models = {"bf16": filled(preset, blocks, torch.bfloat16, device)}
    models |= {kind: in_8_bits(models["bf16"], kind) for kind in args.weights}
    print(f"{args.model}, {blocks} blocks, {args.side}, batch {args.batch}, products in bf16")
    print(f"{heading(device)}; seconds by the {args.clock} clock\n")
    rows = []
    for pixels in args.pixels:
        schedule = schedule_for("1:1", pixels)
        seconds: dict[str, list[float]] = {name: [] for name in models}
        for number in range(-1, args.repeats):  # the first one warms up
            for name, model in models.items():
                start = now()
                picture(TimedSide(args.side, model, preset), schedule, device, args.batch)
                if number >= 0:
                    seconds[name].append(now() - start)
                print(f"{pixels} {name} {now() - start:.3f} s", file=sys.stderr, flush=True)
        first = statistics.median(seconds["bf16"])
        for name, model in models.items():
            held = sum(p.nbytes for p in model.block_chunks.parameters())
            middle = statistics.median(seconds[name])
            ratio = f"{middle / first:.3f}"
            rows.append([pixels, name, f"{held / 1e6:.0f}", f"{middle:.3f}", ratio])
    print(table(["pixels", "weights", "MB of blocks", "seconds", "ratio"], rows))


if __name__ == "__main__":
    main()
