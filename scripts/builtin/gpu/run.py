"""One run of the training: pictures, tokenizer, transformer, each resumable.

Knows the order and the time; what a stage does is in its own file.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

from scalekv.configs.whole_files import replace_text
from scalekv.infinity_patch.files.hashes import sha256_of
from scalekv.infinity_patch.files.hub import BUILT_IN
from scripts.builtin import bundle
from scripts.builtin.gpu import pictures as pictures_stage


def arguments(parser: argparse.ArgumentParser) -> None:
    """The options of a run."""
    parser.add_argument("--out", type=Path, default=Path("data/builtin/gpu-out"))
    parser.add_argument(
        "--work", type=Path, default=Path("data/builtin/gpu-work"), help="checkpoints and pictures"
    )
    parser.add_argument("--start", type=Path, help="weights to go on from (default: the package's)")
    parser.add_argument("--minutes", type=float, default=7.0, help="most time of this call")
    parser.add_argument("--tokenizer-seconds", type=float, default=75.0)
    parser.add_argument("--transformer-seconds", type=float, default=225.0)
    parser.add_argument("--batch", type=int, default=64, help="pictures of ten scales a step")
    parser.add_argument("--tokenizer-batch", type=int, default=32, help="pictures of 256 pixels")
    parser.add_argument("--rate", type=float, default=1.5e-3)
    parser.add_argument("--tokenizer-rate", type=float, default=4e-4)
    parser.add_argument("--compositions", type=int, default=6000)
    parser.add_argument("--limit", type=int, help="so many drawings only, to try the recipe")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument(
        "--compile", action=argparse.BooleanOptionalAction, help="default: where there is CUDA"
    )
    parser.add_argument("--device", help="default: cuda where there is one")


RESERVE = 20.0  # seconds at the end, for measuring and saving
BEGAN = "began-with"  # the file in --work that says with which weights


def check_work(work: Path, start: Path) -> None:
    """That checkpoints in `work` are of a run that began with the weights in `start`.

    Raises:
        SystemExit: they are of another one.
    """
    files = ("transformer.safetensors", "vae.safetensors", "text_encoder/model.safetensors")
    weights, note = sha256_of(*(start / name for name in files)), work / BEGAN
    if note.is_file() and note.read_text() != weights:
        raise SystemExit(
            f"{work} holds a run that began with other weights than those in {start}\n"
            "fix: name another --work, or delete it"
        )
    replace_text(note, weights)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Everything; the log that is written."""
    deadline = time.monotonic() + 60 * args.minutes - RESERVE
    began = time.monotonic()
    bundle.check(args.bundle)
    begin = args.start or BUILT_IN / "emoji"
    args.work.mkdir(parents=True, exist_ok=True)
    check_work(args.work, begin)
    pictures = pictures_stage.prepare(
        args.bundle, args.work / "pictures", args.compositions, args.jobs, args.limit
    )
    import torch  # after the processes that rendered: they need none, and start faster

    from scripts.builtin.gpu import files, start, tokenizer, transformer
    from scripts.builtin.gpu.clock import Stop

    stop = Stop()
    torch.manual_seed(0)
    torch.set_flush_denormal(True)
    torch.set_float32_matmul_precision("high")
    device = torch.device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    log: dict[str, Any] = {"seconds": {"pictures": round(time.monotonic() - began, 1)}}
    print(f"{len(pictures.images)} pictures, {log['seconds']}", file=sys.stderr, flush=True)
    preset = start.next_preset()
    weights = start.start(begin, preset.transformer)
    log["scales_before"] = weights.scales

    def noted(stage: str, found: dict[str, Any], since: float) -> None:
        log[stage] = found
        log["seconds"][stage] = round(time.monotonic() - since, 1)
        files.save_log(args.out, log)

    since = time.monotonic()
    trained = tokenizer.train(
        pictures, weights, preset, args.bundle, args.work, args.out, device=device,
        seconds=args.tokenizer_seconds, deadline=deadline, batch=args.tokenizer_batch,
        rate=args.tokenizer_rate, stop=stop,
    )  # fmt: skip
    noted("tokenizer", trained.log, since)
    since = time.monotonic()
    found = transformer.train(
        pictures, trained.tensors, weights, preset, args.work, args.out, device=device,
        seconds=args.transformer_seconds, deadline=deadline, batch=args.batch, rate=args.rate,
        compiled=device.type == "cuda" if args.compile is None else args.compile, stop=stop,
    )  # fmt: skip
    noted("transformer", found, since)
    files.check(args.out)
    return log
