"""Time and memory of decoding one picture with filled weights: whole maps against strips.

    python -m scripts.bench.decode --dtype fp32 bf16

Every way runs in a process of its own. Whole maps lie as the official decoder has them, a channel
after the other, which is also where PyTorch's group norm is exact: of maps whose channels lie
together it adds up a million places one by one in float32. Differences are those of the eight-bit
values against the first row's: of the first dtype, on whole maps.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from scalekv.configs.models import model_named
from scalekv.infinity_patch.model import autoencoder
from scalekv.infinity_patch.model.autoencoder import Autoencoder
from scalekv.infinity_patch.model.scale_loop import to_uint8
from scalekv.infinity_patch.schedules import schedule_for
from scalekv.kv.dtypes import TORCH_DTYPES
from scripts.bench.sides import PeakMemory, heading, table


@dataclass
class Decoded:
    """Seconds by the clock and of the processors, bytes beyond the weights, the picture."""

    seconds: float
    busy: float
    peak: int
    picture: Tensor


def filled(name: str, dtype: torch.dtype) -> Autoencoder:
    """A decoder of the preset's sizes with random weights that keep signals at their size."""
    torch.manual_seed(0)
    vae = Autoencoder(model_named(name).tokenizer)
    vae.eval().requires_grad_(False)
    for parameter in vae.decoder.parameters():
        if parameter.ndim == 4:
            parameter.normal_(0, parameter[0].numel() ** -0.5)
    vae.decoder.to(dtype)
    return vae


def decoded(name: str, dtype: str, pixels: str, whole: bool, threads: int) -> Decoded:
    """One picture, with nothing else in the process."""
    torch.set_num_threads(threads)
    vae = filled(name, TORCH_DTYPES[dtype])
    if whole:
        autoencoder.LARGE = 1 << 62
    height, width = schedule_for("1:1", pixels).scales[-1]
    spec = vae.spec
    side = 2 if spec.patchify else 1
    signs = torch.randint(2, (1, spec.bits, height * side, width * side)) * 2 - 1
    memory = PeakMemory()
    resident = memory.now()
    memory.forget()
    start, busy = time.perf_counter(), time.process_time()
    latent = signs / spec.bits**0.5
    with torch.inference_mode():
        if whole:
            image = vae.decoder(latent.to(TORCH_DTYPES[dtype])).float().clamp(-1, 1)
        else:
            image = vae.decode(latent)
    picture = to_uint8(image)
    seconds, busy = time.perf_counter() - start, time.process_time() - busy
    return Decoded(seconds, busy, memory.peak() - resident, picture)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="infinity-2b")
    parser.add_argument("--pixels", default="1M")
    parser.add_argument(
        "--dtype", nargs="+", choices=sorted(TORCH_DTYPES), default=["fp32", "bf16"]
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"{args.model}, {args.pixels}, decoder\n{heading(torch.device('cpu'))}\n")
    context = multiprocessing.get_context("spawn")
    rows, exact = [], None
    for dtype in args.dtype:
        for whole in (True, False):
            with context.Pool(1) as pool:
                run = pool.apply(decoded, (args.model, dtype, args.pixels, whole, args.threads))
            if exact is None:
                exact = run.picture.int()
            away = (run.picture.int() - exact).abs()
            rows.append(
                [
                    dtype,
                    "whole" if whole else "strips",
                    f"{run.seconds:.1f}",
                    f"{run.busy:.1f}",
                    f"{run.peak / 1e9:.2f}",
                    str(int(away.max())),
                    f"{float(away.float().mean()):.3f}",
                    f"{float((away == 0).float().mean()):.2%}",
                ]
            )
    columns = ["dtype", "maps", "seconds", "CPU seconds", "peak GB", "largest difference"]
    print(table([*columns, "mean", "equal"], rows))


if __name__ == "__main__":
    main()
