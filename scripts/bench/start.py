"""What a start of the program takes: one picture of the built-in model, by what is there before.

    python -m scripts.bench.start --rounds 5

Sides take turns, each a process of its own: Python with torch alone; with transformers' T5; a
picture; and the same with its prompt in the text cache. Medians of wall and CPU seconds, and CPU
seconds beside those of the picture.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

DRAW = "from scalekv.cli.main import main; import sys; sys.exit(main(sys.argv[1:]))"
PICTURE = "a picture"


def sides(folder: Path) -> dict[str, list[str]]:
    """Arguments of Python by name; pictures go to a folder."""
    draw = ["generate", "a red apple", "--quiet", "--memory-report", "none", "--out"]
    return {
        "import torch": ["-c", "import torch"],
        "import T5": ["-c", "from transformers import T5EncoderModel"],
        PICTURE: ["-c", DRAW, *draw, str(folder / "plain")],
        "in the text cache": [
            *("-c", DRAW, *draw, str(folder / "kept"), "--text-cache", str(folder / "texts"))
        ],
    }


def measured(arguments: list[str]) -> tuple[float, float]:
    """Wall and CPU seconds of a process."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - start, cpu


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        chosen = sides(Path(folder))
        for arguments in chosen.values():  # files and bytecode are read, the cache is filled
            measured(arguments)
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in chosen}
        for _ in range(rounds):
            for name, arguments in chosen.items():
                times[name].append(measured(arguments))
    print(f"load average at the end: {os.getloadavg()[0]:.1f}")
    print("| side | seconds | CPU seconds | CPU, times a picture's |")
    print("| --- | --- | --- | --- |")
    own = median(cpu for _, cpu in times[PICTURE])
    for name, found in times.items():
        wall, cpu = (median(column) for column in zip(*found, strict=True))
        print(f"| {name} | {wall:.2f} | {cpu:.2f} | {cpu / own:.2f} |")


if __name__ == "__main__":
    main()
