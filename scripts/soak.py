"""Kill a batch at random moments, resume it, compare with one that was left alone; and read a
thousand damaged files.

    python -m scripts.soak --pictures 60 --kills 100 --terms 50 --files 1000

Makes an uninterrupted batch of the built-in model, then others that get SIGKILL and SIGTERM at
moments drawn from --seed and are resumed until they end by themselves. Each folder must hold the
same files to the bit, with manifests that agree with them and nothing left lying about; what was
there stays as it was, whatever came after it. Before that `scripts.fuzz` does its part. Prints what
came of it; exit code 1 where anything is not as it should be.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from scripts.fuzz import fuzz, print_told

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
PROGRAM = [sys.executable, "-m", "scalekv"]
RIGHT_CODES = {signal.SIGKILL: (-signal.SIGKILL,), signal.SIGTERM: (143, -signal.SIGTERM)}
"""How a run ends that got a signal; the second: before the program's first line had run."""


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


def start(prompts: Path, out: Path) -> subprocess.Popen[str]:
    """The batch as a process of its own, resumed if there is something to resume."""
    command = [*PROGRAM, "batch", str(prompts), "--out", str(out), "--resume", "--quiet"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def problems(whole: Path, killed: Path, pictures: int) -> list[str]:
    """Everything in which a folder is not what it should be."""
    found = []
    reference = {path.name: path.read_bytes() for path in whole.glob("*.png")}
    found_files = {path.name: path.read_bytes() for path in killed.glob("*.png")}
    if len(found_files) != pictures:
        found.append(f"{len(found_files)} pictures, expected {pictures}")
    if reference.keys() != found_files.keys():
        found.append(f"other names: {sorted(reference.keys() ^ found_files.keys())}")
    different = [
        name
        for name in reference.keys() & found_files.keys()
        if reference[name] != found_files[name]
    ]
    if different:
        found.append(f"other bytes: {sorted(different)}")
    entries = [json.loads(line) for line in (killed / "manifest.jsonl").read_text().splitlines()]
    if sorted(entry["file"] for entry in entries) != sorted(found_files):
        found.append("the manifest lists other files than there are, or one twice")
    for entry in entries:
        data = found_files.get(entry["file"], b"")
        if (len(data), hashlib.sha256(data).hexdigest()) != (entry["bytes"], entry["sha256"]):
            found.append(f"the manifest has another sum of {entry['file']}")
    expected = {name[:-4] + ending for name in reference for ending in (".png", ".json")}
    others = {path.name for path in killed.iterdir()} - expected
    unexpected = {name for name in others if not name.startswith(("manifest.", "report"))}
    if unexpected:
        found.append(f"left lying about: {sorted(unexpected)}")
    return found


@dataclass
class Soak:
    """One batch, killed again and again.

    prompts, whole: its file, and the folder of the batch that was left alone; longest: the latest
    moment of a signal, in seconds; ended: how runs ended; found: what was not as it should be.
    """

    prompts: Path
    whole: Path
    pictures: int
    longest: float
    moments: random.Random
    ended: Counter[str] = field(default_factory=Counter)
    found: list[str] = field(default_factory=list)

    def until_done(self, out: Path, signals: list[signal.Signals]) -> None:
        """Resumes until a run ends by itself, taking a signal off the list for every other run."""
        before: dict[str, bytes] = {}
        while signals:
            program, wait = start(self.prompts, out), self.moments.uniform(0, self.longest)
            try:
                _, output = program.communicate(timeout=wait)
            except subprocess.TimeoutExpired:
                number = signals.pop()
                program.send_signal(number)
                _, output = program.communicate()
                self._check_end(number, program.returncode, output)
            else:
                self._check_end(None, program.returncode, output)
                break
            now = {path.name: path.read_bytes() for path in out.glob("*.png")}
            self.found += [f"lost or changed: {n}" for n, d in before.items() if now.get(n) != d]
            before = now
        else:
            program = start(self.prompts, out)
            _, output = program.communicate()
            self._check_end(None, program.returncode, output)
        self.found += problems(self.whole, out, self.pictures)

    def _check_end(self, number: signal.Signals | None, code: int, output: str) -> None:
        # a run may end by itself while the signal is on its way
        right = (0,) if number is None else (*RIGHT_CODES[number], 0)
        self.ended[f"{'no signal' if number is None else number.name}: exit code {code}"] += 1
        if code not in right or "Traceback" in output:
            self.found.append(f"{number}: exit code {code}: {output[-500:]}")


def soak(folder: Path, pictures: int, kills: int, terms: int, seed: int) -> Iterator[str]:
    """Kills batches in a folder; yields what is to be told, and the faults as "fault: ..."."""
    prompts, whole = folder / "p.csv", folder / "whole"
    write_prompts(prompts, pictures)
    began = time.monotonic()
    program = start(prompts, whole)
    assert program.stdout is not None
    program.stdout.readline()
    first = time.monotonic() - began
    if program.wait() != 0:
        yield f"fault: the uninterrupted batch ended with {program.returncode}"
        return
    took = time.monotonic() - began
    program.communicate()
    yield f"uninterrupted: {pictures} pictures in {took:.1f} s, the first after {first:.1f} s"
    moments = random.Random(seed)
    signals = [signal.SIGKILL] * kills + [signal.SIGTERM] * terms
    moments.shuffle(signals)
    each = (took - first) / max(pictures - 1, 1)
    run = Soak(prompts, whole, pictures, first + 3 * each, moments)
    batches = 0
    while signals:
        batches += 1
        run.until_done(folder / f"killed-{batches}", signals)
    yield f"{kills} SIGKILL and {terms} SIGTERM over {batches} batches of {pictures} pictures"
    yield from (f"  {count} runs, {how}" for how, count in sorted(run.ended.items()))
    yield from (f"fault: {found}" for found in run.found)
    if not run.found:
        yield "0 lost, 0 doubled, all equal to the bit"


def main() -> int:
    """Runs it and returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pictures", type=int, default=60)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--terms", type=int, default=50)
    parser.add_argument("--files", type=int, default=1000, help="damaged files to read")
    parser.add_argument("--seed", type=int, default=0, help="draws moments and damage")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        faults = print_told(fuzz(Path(folder), chosen.files, chosen.seed))
        if chosen.kills or chosen.terms:
            killing = soak(Path(folder), chosen.pictures, chosen.kills, chosen.terms, chosen.seed)
            faults += print_told(killing)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
