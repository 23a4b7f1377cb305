"""What a warm server adds to a picture, and how many it draws for eight clients, beside a batch.

python -m scripts.bench.serve [--pictures 40] [--clients 8] [--threads 2]

Everything in one call on one machine: the seconds a request takes over the seconds that the picture
itself counts, and pictures a second of a server against those of `scalekv batch`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from scripts.bench.sides import heading

PROGRAM = (sys.executable, "-m", "scalekv")


def ask(address: str, seed: int) -> tuple[float, float]:
    """Seconds from asking to having a picture, and those that the picture counts."""
    body = json.dumps({"prompt": f"a red apple {seed}", "seed": seed}).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{address}/v1/images/generations", body, headers)
    start = time.perf_counter()
    with urllib.request.urlopen(request, timeout=600) as answer:
        item: dict[str, Any] = json.load(answer)["data"][0]
    return time.perf_counter() - start, float(item["scalekv"]["seconds"])


def wait_until_ready(address: str) -> None:
    """Returns when the model is loaded."""
    while True:
        try:
            urllib.request.urlopen(f"{address}/health", timeout=10).close()
            return
        except urllib.error.HTTPError as error:
            error.close()
            time.sleep(0.1)


def served(pictures: int, clients: int, threads: int) -> tuple[list[tuple[float, float]], float]:
    """Of single requests: both seconds; and pictures a second for several clients at once."""
    command = [*PROGRAM, "serve", "--port", "0", "--threads", str(threads)]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        wait_until_ready(address)
        for seed in range(3):
            ask(address, seed)
        alone = [ask(address, seed) for seed in range(pictures)]
        start = time.perf_counter()
        with ThreadPoolExecutor(clients) as pool:
            list(pool.map(lambda seed: ask(address, seed), range(pictures)))
        rate = pictures / (time.perf_counter() - start)
        process.terminate()
    return alone, rate


def batched(pictures: int, threads: int) -> float:
    """Pictures a second of a batch, loading apart."""
    with tempfile.TemporaryDirectory() as folder:
        prompts = Path(folder) / "prompts.txt"
        prompts.write_text("".join(f"a red apple {seed}\n" for seed in range(pictures)))
        out = Path(folder) / "out"
        command = [*PROGRAM, "batch", str(prompts), "--out", str(out), "--threads", str(threads)]
        done = subprocess.run([*command, "--json", "-q"], stdout=subprocess.PIPE, check=True)
        seconds = json.loads(done.stdout)["report"]["seconds"]
    return pictures / float(seconds["all"] - seconds["load"])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pictures", type=int, default=40)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    print(heading(torch.device("cpu")))
    alone, rate = served(args.pictures, args.clients, args.threads)
    batch = batched(args.pictures, args.threads)
    ratio = statistics.median(asked / counted for asked, counted in alone)
    print(f"emoji, {args.pictures} pictures, {args.threads} threads, batch 1 with guidance, CPU")
    print(
        f"one request: {statistics.median(a for a, _ in alone):.3f} s, the picture counts "
        f"{statistics.median(c for _, c in alone):.3f} s, ratio {ratio:.3f}"
    )
    print(
        f"{args.clients} clients: {rate:.2f} pictures a second, batch {batch:.2f}, "
        f"ratio {rate / batch:.3f}"
    )


if __name__ == "__main__":
    main()
