"""The command with real workers, in processes of its own: on this machine, and on a cluster whose
parts are killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Outcome
from tests.cli.test_main import PROGRAM

Program = Callable[..., Outcome]

ROOT = Path(__file__).parents[3]
ON_WORKERS = ("--engine", "ray", "--workers", "1", "--threads", "1")


def manifest(folder: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(folder, "manifest.jsonl").read_text().splitlines()]


def described(folder: str) -> dict[str, dict[str, Any]]:
    """Sidecars without what a clock says."""
    sidecars = {path.name: json.loads(path.read_text()) for path in Path(folder).glob("0*.json")}
    return {name: {**content, "seconds": 0} for name, content in sidecars.items()}


def children(process: int) -> list[int]:
    """All processes that this one has started, and those that they have."""
    found = []
    for task in Path(f"/proc/{process}/task").iterdir():
        for child in map(int, (task / "children").read_text().split()):
            found += [child, *children(child)]
    return found


def test_stopped_on_this_machine_and_gone_on_with_alone(scalekv: Program) -> None:
    Path("p.txt").write_text("an owl\na red apple\na fox\na cat\n")
    program = subprocess.Popen(
        [*PROGRAM, "batch", "p.txt", "--out", "out", *ON_WORKERS],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert program.stdout is not None
    first = program.stdout.readline()
    started = children(program.pid)
    program.send_signal(signal.SIGTERM)
    rest, said = program.communicate(timeout=120)
    assert program.returncode == 143, said
    assert "kept in out" in said
    assert "(raylet)" not in said
    listed = manifest("out")
    # stdout has paths and nothing else
    assert [Path(path).name for path in (first + rest).splitlines()] == [e["file"] for e in listed]
    assert started
    assert not [process for process in started if Path(f"/proc/{process}").exists()]
    report = json.loads(Path("out/report.json").read_text())
    assert report["outcome"] == "interrupted"
    assert [row["pictures"] for row in report["workers"]] == [len(listed)]
    assert {entry["worker"] for entry in listed} == {row["name"] for row in report["workers"]}

    assert scalekv("batch", "p.txt", "--out", "out", "--resume", "--threads", "1").code == 0
    assert scalekv("batch", "p.txt", "--out", "alone", "--threads", "1").code == 0
    for path in Path("alone").glob("*.png"):
        assert Path("out", path.name).read_bytes() == path.read_bytes()
    assert described("out") == described("alone")


def test_nobody_answers(scalekv: Program) -> None:
    Path("p.txt").write_text("an owl\n")
    done = subprocess.run(
        [*PROGRAM, "batch", "p.txt", "--out", "out", "--engine", "ray", "--address", "127.0.0.1:9"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 2
    assert "no cluster answers at 127.0.0.1:9" in done.stderr
    assert not Path("out").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_worker_a_node_and_the_driver_are_killed(encoded_before: Callable[..., None]) -> None:
    """In its own process: Ray's threads and warnings are no part of these tests."""
    encoded_before()  # what the batch that is left alone encodes, its rounds find
    done = subprocess.run(
        [sys.executable, "-m", "scripts.soak_cluster", "--pictures", "10", "--rounds", "1"],
        cwd=ROOT,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 lost, 0 doubled, all equal to the bit" in done.stdout
