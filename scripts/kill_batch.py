"""Kill a batch at random moments, resume it, and compare with one that was left alone.

    python -m scripts.kill_batch --pictures 60 --kills 10

Makes an uninterrupted batch of the built-in model, then a second one that gets SIGKILL at moments
drawn from --seed and is resumed until it ends by itself. The two folders must hold the same files
to the bit, with manifests that agree with them and nothing left lying about. Prints what every
attempt came to; exit code 1 where anything differs.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SUBJECTS = (
    "an owl",
    "a red apple",
    "a fox",
    "a pizza",
    "a blue car",
    "a house",
    "a cat",
    "a heart",
)
PROGRAM = [sys.executable, "-c", "import sys; from scalekv.cli.main import main; sys.exit(main())"]


def write_prompts(path: Path, pictures: int) -> None:
    """A file of `pictures` rows with settings of several kinds."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["prompt", "budget", "cfg", "seed"])
        for row in range(pictures):
            budget = ("", "20%", "full")[row % 3]
            cfg = "" if row % 4 else "3"
            seed = "" if row % 5 else 1000 + row
            writer.writerow([f"{SUBJECTS[row % len(SUBJECTS)]}, number {row}", budget, cfg, seed])


def start(prompts: Path, out: Path) -> subprocess.Popen[bytes]:
    """The batch as a process of its own, resumed if there is something to resume."""
    command = [*PROGRAM, "batch", str(prompts), "--out", str(out), "--resume", "--quiet"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


def problems(whole: Path, killed: Path, pictures: int) -> list[str]:
    """Everything in which a folder is not what it should be."""
    found = []
    reference = {path.name: path.read_bytes() for path in whole.glob("*.png")}
    there = {path.name: path.read_bytes() for path in killed.glob("*.png")}
    if len(there) != pictures:
        found.append(f"{len(there)} pictures, expected {pictures}")
    if reference.keys() != there.keys():
        found.append(f"other names: {sorted(reference.keys() ^ there.keys())}")
    different = [name for name in reference.keys() & there.keys() if reference[name] != there[name]]
    if different:
        found.append(f"other bytes: {sorted(different)}")
    entries = [json.loads(line) for line in (killed / "manifest.jsonl").read_text().splitlines()]
    if sorted(entry["file"] for entry in entries) != sorted(there):
        found.append("the manifest lists other files than there are, or one twice")
    for entry in entries:
        data = there.get(entry["file"], b"")
        if (len(data), hashlib.sha256(data).hexdigest()) != (entry["bytes"], entry["sha256"]):
            found.append(f"the manifest has another sum of {entry['file']}")
    expected = {name[:-4] + ending for name in reference for ending in (".png", ".json")}
    others = {path.name for path in killed.iterdir()} - expected
    unexpected = {name for name in others if not name.startswith(("manifest.", "report"))}
    if unexpected:
        found.append(f"left lying about: {sorted(unexpected)}")
    return found


def main() -> int:
    """Runs it and returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pictures", type=int, default=60)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0, help="draws the moments")
    parser.add_argument(
        "--longest", type=float, default=0.0, help="latest moment in seconds; 0: from the first run"
    )
    chosen = parser.parse_args()
    moments = random.Random(chosen.seed)
    with tempfile.TemporaryDirectory() as folder:
        prompts, whole, killed = (Path(folder) / name for name in ("p.csv", "whole", "killed"))
        write_prompts(prompts, chosen.pictures)
        began = time.monotonic()
        if code := start(prompts, whole).wait():
            print(f"the uninterrupted batch ended with {code}")
            return 1
        took = time.monotonic() - began
        print(f"uninterrupted: {chosen.pictures} pictures in {took:.1f} s")
        longest = chosen.longest or 2 * took / chosen.kills
        for attempt in range(1, chosen.kills + 1):
            moment = moments.uniform(0, longest)
            program = start(prompts, killed)
            try:
                code = program.wait(moment)
                print(f"run {attempt}: ended by itself with {code} before {moment:.2f} s")
            except subprocess.TimeoutExpired:
                program.kill()
                program.wait()
                count = len(list(killed.glob("*.png")))
                print(f"run {attempt}: killed after {moment:.2f} s, {count} pictures there")
        if code := start(prompts, killed).wait():
            print(f"the last run ended with {code}")
            return 1
        found = problems(whole, killed, chosen.pictures)
    for problem in found:
        print(problem)
    print("different" if found else f"{chosen.pictures} pictures, equal to the bit")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
