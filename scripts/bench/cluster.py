"""Pictures a second of two workers of one core each, beside one such worker.

python -m scripts.bench.cluster [--pictures 40] [--workers 2] [--rounds 3]

Both sides in turn in one call on one machine, each a whole `scalekv batch --engine ray`; counted
from the moment the first worker has loaded to the last picture, so the start of a cluster is apart.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

PROGRAM = (sys.executable, "-m", "scalekv")


def rate(pictures: int, workers: int) -> tuple[float, float]:
    """Pictures a second of a batch, and the seconds until it drew."""
    with tempfile.TemporaryDirectory() as folder:
        prompts, out = Path(folder, "prompts.txt"), Path(folder, "out")
        prompts.write_text("".join(f"a red apple {seed}\n" for seed in range(pictures)))
        command = [*PROGRAM, "batch", str(prompts), "--out", str(out), "--json", "--quiet"]
        cluster = ["--engine", "ray", "--device", "cpu", "--threads", "1"]
        done = subprocess.run(
            [*command, *cluster, "--workers", str(workers)], stdout=subprocess.PIPE, check=True
        )
        report = json.loads(done.stdout)["report"]
    seconds = float(report["seconds"]["all"]) - float(report["seconds"]["load"])
    return pictures / seconds, float(report["seconds"]["load"])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pictures", type=int, default=40)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    load = ", ".join(f"{average:.1f}" for average in os.getloadavg())
    print(f"emoji, {args.pictures} pictures, {os.cpu_count()} cores, load before {load}")
    ratios = []
    for _ in range(args.rounds):
        one, _start = rate(args.pictures, 1)
        several, start = rate(args.pictures, args.workers)
        ratios.append(several / one)
        print(
            f"1 worker {one:.2f} pictures a second, {args.workers} workers {several:.2f} "
            f"(started in {start:.1f} s), ratio {ratios[-1]:.2f}",
            flush=True,
        )
    print(f"ratio {statistics.median(ratios):.2f} (median of {args.rounds})")


if __name__ == "__main__":
    main()
