"""The bound by structure: what the scales of a picture take on a device when nothing is left but
products, attention on strided views, elementwise kernels, and the copies of held tokens.

    python -m scripts.bench.bound --model infinity-2b --side full --side paper-10

Random weights; caches written in place; no schedule of rotations but random ones; tokens chosen by
plain scores and torch's top-k, without pooling. On a CUDA device each side is also captured in one
graph a picture, which is the figure to hold a run against: no host is waited for. Prints one line a
side and, with --json, the seconds.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from scalekv.configs.models import ModelPreset, model_named
from scalekv.infinity_patch.asked.budgets import read_budget
from scalekv.infinity_patch.compute.kernels.norm import norm
from scalekv.infinity_patch.compute.kernels.queries_keys import place_queries_keys_values
from scalekv.infinity_patch.compute.kernels.residual import add_norm
from scalekv.infinity_patch.compute.products import linear
from scalekv.infinity_patch.model.parameters import mlp_width
from scalekv.infinity_patch.schedules import schedule_for
from scalekv.kv.budgets.budget import Budget
from scalekv.kv.dtypes import TORCH_DTYPES
from scalekv.kv.schedule import Schedule

TEXT = 20
OBSERVERS = 16


class Bound:
    """The scales of a batch of pictures, with guidance, as bare as they can be."""

    def __init__(
        self,
        preset: ModelPreset,
        schedule: Schedule,
        budget: Budget | None,
        batch: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        """`budget` None keeps everything."""
        spec = preset.transformer
        self.schedule, self.budget, self.dtype, self.device = schedule, budget, dtype, device
        self.heads, self.width, self.bits = spec.heads, spec.width, preset.tokenizer.token_bits
        self.dim, self.batch = spec.head_dim, batch
        self.generator = torch.Generator(device).manual_seed(0)
        self.blocks = [self._block() for _ in range(spec.depth)]
        self.head = self._random(2 * self.bits, self.width, dtype=torch.float32)
        self.embed = self._random(self.width, self.bits)
        self.turns = [
            torch.polar(torch.ones_like(angles), angles)
            for angles in (
                6 * self._random(tokens, 1, self.dim // 2, dtype=torch.float32)
                for tokens in schedule.tokens
            )
        ]
        self.noise = [
            torch.empty(batch, tokens, self.bits, 2, device=device).exponential_(
                generator=self.generator
            )
            for tokens in schedule.tokens
        ]
        most = [schedule.history] * spec.depth
        if budget is not None:
            scales = range(1, len(schedule))
            most = [max(budget.capacity(s, layer) for s in scales) for layer in range(spec.depth)]
        self.held = [self._tokens(n) for n in most]
        self.work = self._tokens(schedule.total)

    def _random(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        values = torch.empty(shape, device=self.device)
        values.normal_(0, shape[-1] ** -0.5, generator=self.generator)
        return values.to(dtype or self.dtype)

    def _tokens(self, count: int) -> Tensor:
        """Room for k and v, (2, G, T, H, D)."""
        shape = (2, 2 * self.batch, count, self.heads, self.dim)
        return torch.empty(shape, dtype=self.dtype, device=self.device)

    def _block(self) -> dict[str, Tensor]:
        width, hidden, of = self.width, mlp_width(self.width), self._random
        shapes = {"qkv": 3 * width, "proj": width, "text_q": width, "text_proj": width}
        block = {name: of(rows, width) for name, rows in shapes.items()}
        block |= {"up": of(hidden, width), "down": of(width, hidden)}
        block |= {f"{name}_bias": of(len(weight)) for name, weight in [*block.items()]}
        block["modulation"] = 1 + of(6, 2 * self.batch, 1, width, dtype=torch.float32)
        block["norm"] = 1 + of(2, width)
        block["text"] = of(2, 2 * self.batch, self.heads, TEXT, self.dim)
        block["gain"] = torch.full((2, self.heads, 1), 10.0, device=self.device)
        return block

    def picture(self) -> Tensor:
        """All scales; the bits of the last."""
        x = torch.zeros(2 * self.batch, 1, self.width, device=self.device)
        held, bits = [0] * len(self.blocks), x
        for scale, length in enumerate(self.schedule.tokens):
            for layer, block in enumerate(self.blocks):
                held[layer] = self._layer(x, block, layer, scale, held[layer])
            logits = F.linear(F.layer_norm(x, x.shape[-1:]), self.head).unflatten(-1, (-1, 2))
            conditional, other = logits.chunk(2)
            logits = 3 * conditional - 2 * other
            bits = (logits.softmax(-1) / self.noise[scale]).argmax(-1)
            if scale + 1 < len(self.schedule):
                places = torch.arange(self.schedule.tokens[scale + 1], device=self.device) % length
                values = bits.index_select(1, places).to(self.dtype) * 2 - 1
                x = F.linear(values, self.embed).float().repeat(2, 1, 1)
        return bits

    def _layer(self, x: Tensor, block: dict[str, Tensor], layer: int, scale: int, old: int) -> int:
        """One block, x written over; how many tokens it holds afterwards."""
        gain, gain_2, factor, factor_2, shift, shift_2 = block["modulation"].unbind()
        length, last = x.shape[1], scale + 1 == len(self.schedule)
        total = old + length
        room = self.held[layer].shape[2]
        fits = total <= room and not last
        kv = self.held[layer] if fits else self.work
        if old and not fits:
            kv[:, :, :old].copy_(self.held[layer][:, :, :old])
        k, v = kv[:, :, :total].transpose(2, 3)
        h = norm(x, factor, shift, self.dtype)
        qkv = linear(h, block["qkv"], block["qkv_bias"]).unflatten(-1, (3, self.heads, -1))
        q = torch.empty_like(qkv[:, :, 0]).transpose(1, 2)
        new = slice(old, total)
        place_queries_keys_values(
            qkv, block["gain"], self.turns[scale], q, k[:, :, new], v[:, :, new]
        )
        out = F.scaled_dot_product_attention(q, k, v, scale=1.0).transpose(1, 2).flatten(2)
        h = linear(out, block["proj"], block["proj_bias"])
        affine, beside = block["norm"]
        h = add_norm(x, h, gain, affine, beside, self.dtype)
        q = linear(h, block["text_q"], block["text_q_bias"]).unflatten(-1, (self.heads, -1))
        out = F.scaled_dot_product_attention(q.transpose(1, 2), *block["text"])
        h = linear(out.transpose(1, 2).flatten(2), block["text_proj"], block["text_proj_bias"])
        h = add_norm(x, h, None, factor_2, shift_2, self.dtype)
        h = linear(h, block["up"], block["up_bias"], gelu=True)
        x.addcmul_(gain_2, linear(h, block["down"], block["down_bias"]))
        if last or self.budget is None:
            return total
        capacity = min(self.budget.capacity(scale + 1, layer), total)
        if capacity < total:
            self._choose(layer, kv, total, capacity, length)
        elif not fits:
            self.held[layer][:, :, old:total].copy_(kv[:, :, new])
        return capacity

    def _choose(self, layer: int, kv: Tensor, total: int, count: int, length: int) -> None:
        """Keeps the tokens that score best by some of the newest keys in place of queries."""
        places = total - 1 - torch.arange(min(OBSERVERS, length), device=self.device)
        keys = kv[0, :, :total].transpose(1, 2).float()
        scores = (keys.index_select(2, places) @ keys.mT).softmax(-1).sum(2)
        slots = scores.topk(count, -1).indices.sort(-1).values.transpose(1, 2)
        index = slots[..., None].expand(2, -1, -1, -1, self.dim)
        self.held[layer][:, :, :count].copy_(kv[:, :, :total].gather(2, index))


def seconds(run: Callable[[], Any], device: torch.device, repeats: int) -> float:
    """Median of some runs, each waited for."""

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    taken = []
    for _ in range(repeats):
        wait()
        start = time.perf_counter()
        run()
        wait()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def measure_bound(bound: Bound, repeats: int = 3) -> dict[str, float]:
    """Seconds a batch of pictures: `eager` and, on a CUDA device, captured in one `graph`."""
    with torch.inference_mode():
        bound.picture()
        found = {"eager": seconds(bound.picture, bound.device, repeats)}
        if bound.device.type == "cuda":
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                bound.picture()
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                bound.picture()
            found["graph"] = seconds(graph.replay, bound.device, repeats)
    return found


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="infinity-2b", help="a preset; its sizes are used")
    parser.add_argument("--pixels", default="1M")
    parser.add_argument("--side", action="append", help="full or a budget; both where left out")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--dtype", choices=sorted(TORCH_DTYPES), default="bf16")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def main() -> None:
    """Measure each side."""
    args = arguments()
    preset, device = model_named(args.model), torch.device(args.device)
    schedule, found = schedule_for("1:1", args.pixels), {}
    for side in args.side or ["full", "10%"]:
        read = read_budget(side, preset.transformer.depth, preset.name)
        budget = None if side == "full" else read.on(schedule)
        bound = Bound(preset, schedule, budget, args.batch, TORCH_DTYPES[args.dtype], device)
        found[side] = measure_bound(bound, args.repeats)
        line = ", ".join(f"{name} {value:.4f} s" for name, value in found[side].items())
        print(f"{args.model} {args.pixels} batch {args.batch} {side}: {line}", file=sys.stderr)
        del bound
        gc.collect()
    if args.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
