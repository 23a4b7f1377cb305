"""Measure what loading a model takes: seconds, and anonymous memory apart from mapped file pages.

python scripts/bench/load.py infinity-2b /tmp/filled/pth /tmp/filled/shards

Every folder is loaded in a process of its own, into bf16 on the CPU. A thread reads RssAnon and
RssFile of /proc/self/status every few milliseconds. Exits with 1 where anonymous memory grows
beyond 1.1 times what the loaded tensors take.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
import time
from pathlib import Path

MOST = 1.1
SAMPLE_SECONDS = 0.002


def resident() -> dict[str, int]:
    """Bytes of anonymous memory and of mapped files that this process has in memory."""
    rows = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    return {row[0][:-1]: int(row[1]) << 10 for row in rows if row[0] in ("RssAnon:", "RssFile:")}


class ProcessPeaks:
    """The highest values of `resident` while the block runs."""

    def __enter__(self) -> ProcessPeaks:
        self.highest = resident()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(SAMPLE_SECONDS):
            self.highest = {name: max(n, self.highest[name]) for name, n in resident().items()}


def measure(model: str, folder: Path, dtype: str, weights: str) -> dict[str, float]:
    """Loads in this process; bytes and seconds."""
    from scalekv.infinity_patch import Placement, load

    load("emoji", device="cpu")  # what libraries take once is not the weights'
    before = resident()
    start = time.perf_counter()
    with ProcessPeaks() as peaks:
        pipeline = load(
            model,
            device="cpu",
            dtype=dtype,
            weights_dir=folder,
            placement=Placement(weights=weights),
        )
    seconds = time.perf_counter() - start
    after = resident()
    tensors = [*pipeline.model.parameters(), *pipeline.vae.parameters()]
    return {
        "seconds": seconds,
        "tensors": sum(p.nbytes for p in tensors) + pipeline.text.nbytes,
        "transformer": pipeline.weights_bytes["transformer"],
        "peak_anonymous": peaks.highest["RssAnon"] - before["RssAnon"],
        "left_anonymous": after["RssAnon"] - before["RssAnon"],
        "peak_mapped": peaks.highest["RssFile"] - before["RssFile"],
    }


def main() -> int:
    """One line a folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="a preset")
    parser.add_argument("folders", nargs="+", type=Path, help="folders with its files")
    parser.add_argument("--dtype", default="bf16")
    parser.add_argument("--weights", default="auto", help="int8, fp8; auto: as the files are")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.here:
        print(json.dumps(measure(args.model, args.folders[0], args.dtype, args.weights)))
        return 0
    print(
        f"{'folder':10} {'seconds':>8} {'tensors':>9} {'peak anonymous':>15} "
        f"{'ratio':>6} {'left':>7} {'peak mapped':>12}   (GB)"
    )
    worst = 0.0
    for folder in args.folders:
        command = [sys.executable, __file__, args.model, str(folder)]
        command += ["--dtype", args.dtype, "--weights", args.weights]
        done = subprocess.run([*command, "--here"], stdout=subprocess.PIPE, check=True, text=True)
        found = json.loads(done.stdout)
        ratio = found["peak_anonymous"] / found["tensors"]
        worst = max(worst, ratio)
        in_gb = {name: value / 1e9 for name, value in found.items()}
        print(
            f"{folder.name:10} {found['seconds']:8.1f} {in_gb['tensors']:9.3f} "
            f"{in_gb['peak_anonymous']:15.3f} {ratio:6.3f} {in_gb['left_anonymous']:7.3f} "
            f"{in_gb['peak_mapped']:12.3f}"
        )
    return 1 if worst > MOST else 0


if __name__ == "__main__":
    sys.exit(main())
