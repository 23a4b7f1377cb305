"""Pictures a second while other programs keep the cores busy, and while nothing does.

    python -m scripts.bench.busy --loops 2 --seconds 20 --rounds 3

Sides: what `scalekv` does by itself; what it did before it limited how long threads spin; one
thread; OMP_WAIT_POLICY=PASSIVE. Each is a process of its own that loads the built-in model and
draws for --seconds, in turns, alone and beside --loops endless loops. Prints rates and two ratios:
beside loops, of the default to the better of one thread and PASSIVE; alone, of the default to what
it was before.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from scalekv.infinity_patch.machine.machine import SPINS

UNSET = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", *SPINS)
SIDES: dict[str, tuple[str, dict[str, str]]] = {
    "default": ("auto", {}),
    "before": ("auto", {"GOMP_SPINCOUNT": "300000", "KMP_BLOCKTIME": "200"}),
    "one thread": ("1", {}),
    "passive": ("auto", {"OMP_WAIT_POLICY": "PASSIVE"}),
}
"""--threads and variables of each side."""

DRAW = """
import sys, time
from scalekv.infinity_patch.machine.machine import limit_spinning, sensible_threads
limit_spinning()
from scalekv.infinity_patch import Placement, Request, generate, load
threads = sensible_threads() if sys.argv[1] == "auto" else int(sys.argv[1])
pipeline = load("emoji", device="cpu", placement=Placement(threads=threads))
def draw(seed):
    next(generate(pipeline, Request("a red apple", seed=seed)))
draw(0)
start, made = time.perf_counter(), 0
while (spent := time.perf_counter() - start) < float(sys.argv[2]):
    made += 1
    draw(made)
print(made / spent)
"""
"""As the command line starts: what it does before torch is loaded, and the threads it chooses."""


def rate(side: str, seconds: float) -> float:
    """Pictures a second of one side."""
    threads, variables = SIDES[side]
    kept = {name: value for name, value in os.environ.items() if name not in UNSET}
    done = subprocess.run(
        [sys.executable, "-c", DRAW, threads, str(seconds)],
        env=kept | variables,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return float(done.stdout)


@contextmanager
def beside(loops: int) -> Iterator[None]:
    """Inside, so many processes do nothing as fast as they can."""
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(loops)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def measured(loops: int, seconds: float, rounds: int) -> dict[str, float]:
    """The median rate of each side; in turns, so that all meet the same other work."""
    rates: dict[str, list[float]] = {side: [] for side in SIDES}
    with beside(loops):
        for _ in range(rounds):
            for side in SIDES:
                rates[side].append(rate(side, seconds))
    return {side: statistics.median(found) for side, found in rates.items()}


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--loops", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    for loops in (0, chosen.loops):
        load = os.getloadavg()[0]
        rates = measured(loops, chosen.seconds, chosen.rounds)
        print(f"beside {loops} loops, load {load:.1f} before: pictures a second")
        for side, found in rates.items():
            print(f"  {side:12} {found:6.2f}")
        if loops:
            best = max(rates["one thread"], rates["passive"])
            print(f"  default / better of one thread and passive: {rates['default'] / best:.2f}")
        else:
            print(f"  default / before: {rates['default'] / rates['before']:.2f}")


if __name__ == "__main__":
    main()
