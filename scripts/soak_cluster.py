"""Kill a worker, a node and the driver of a batch on a cluster; compare with one left alone.

    python -m scripts.soak_cluster --pictures 60 --rounds 2

A cluster of two nodes on this machine, one worker of one thread each. In every round a batch of the
built-in model loses a worker to SIGKILL, then a node, gets another node, and then its driver is
killed and it is resumed; every other round the workers write the pictures. Each folder must hold
the same files to the bit as a batch of one process on one thread. Prints what came of it; exit
code 1 where anything is not as it should be.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ |= {  # read when Ray is imported, by the driver too
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # all listens on 127.0.0.1
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",
    "RAY_memory_monitor_refresh_ms": "0",  # other work may fill the machine
}

import ray.cluster_utils

from scripts.fuzz import print_told
from scripts.soak import PROGRAM, problems, write_prompts

PATIENCE_SECONDS = 600.0
ALONE = ("--threads", "1", "--quiet")


class Nodes:
    """A cluster of two nodes on this machine, each with room for one worker."""

    def __init__(self) -> None:
        node = {"num_cpus": 1, "include_dashboard": False}
        self._cluster: Any = ray.cluster_utils.Cluster(
            initialize_head=True, shutdown_at_exit=True, head_node_args=node
        )
        self.address = str(self._cluster.address)
        self._second: Any = None
        self.add()

    def add(self) -> None:
        """Puts the second node there."""
        self._second = self._cluster.add_node(num_cpus=1)

    def kill_second(self) -> None:
        """SIGKILL for everything of the second node."""
        self._cluster.remove_node(self._second, allow_graceful=False)

    def end(self) -> None:
        """Ends both."""
        self._cluster.shutdown()

    def kill_worker(self) -> None:
        """SIGKILL for the process of the head that draws.

        Raises:
            RuntimeError: there is none.
        """
        kind = ray._private.ray_constants.PROCESS_TYPE_RAYLET
        raylet = self._cluster.head_node.all_processes[kind][0].process.pid
        children = Path(f"/proc/{raylet}/task/{raylet}/children").read_text().split()
        workers = [int(child) for child in children if _title(child).startswith("ray::Drawer")]
        if not workers:
            raise RuntimeError("the head has no worker to kill")
        for worker in workers:
            os.kill(worker, signal.SIGKILL)


def _title(process: str) -> str:
    try:
        return Path(f"/proc/{process}/cmdline").read_text().replace("\0", " ")
    except OSError:  # it has ended
        return ""


def start(prompts: Path, out: Path, address: str, *, write: bool) -> subprocess.Popen[str]:
    """The driver as a process of its own, resumed if there is something to resume."""
    cluster = ["--engine", "ray", "--address", address, "--workers", "2"]
    more = ["--workers-write"] if write else []
    command = [*PROGRAM, "batch", str(prompts), "--out", str(out), "--resume", *ALONE]
    return subprocess.Popen(
        [*command, *cluster, *more], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def wait_for(out: Path, pictures: int, driver: subprocess.Popen[str]) -> None:
    """Returns when so many pictures are there.

    Raises:
        RuntimeError: the driver ended before, or it took too long.
    """
    limit = time.monotonic() + PATIENCE_SECONDS
    while len(list(out.glob("*.png"))) < pictures:
        if driver.poll() is not None or time.monotonic() > limit:
            said = driver.stdout.read() if driver.stdout and driver.poll() is not None else ""
            raise RuntimeError(f"not {pictures} pictures, exit code {driver.poll()}: {said}")
        time.sleep(0.02)


def one_round(nodes: Nodes, prompts: Path, out: Path, pictures: int, *, write: bool) -> str:
    """A batch that loses a worker, a node and its driver; returns what the last driver said."""
    driver = start(prompts, out, nodes.address, write=write)
    try:
        wait_for(out, max(pictures // 10, 1), driver)
        nodes.kill_worker()
        wait_for(out, pictures * 3 // 10, driver)
        nodes.kill_second()
        wait_for(out, pictures * 5 // 10, driver)
        nodes.add()
        wait_for(out, pictures * 7 // 10, driver)
    finally:
        driver.kill()
        driver.communicate()
    driver = start(prompts, out, nodes.address, write=write)
    said, _ = driver.communicate(timeout=PATIENCE_SECONDS)
    return said if driver.returncode else ""


def soak(folder: Path, pictures: int, rounds: int) -> Iterator[str]:
    """Kills parts of clusters; yields what is to be told, and the faults as "fault: ..."."""
    prompts, whole = folder / "p.csv", folder / "whole"
    write_prompts(prompts, pictures)
    began = time.monotonic()
    command = [*PROGRAM, "batch", str(prompts), "--out", str(whole), *ALONE]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    yield f"one process: {pictures} pictures in {time.monotonic() - began:.1f} s"
    nodes = Nodes()
    faults = []
    try:
        for number in range(rounds):
            write = number % 2 == 1
            out = folder / f"round-{number}"
            began = time.monotonic()
            said = one_round(nodes, prompts, out, pictures, write=write)
            faults += [f"the resumed batch failed: {said}"] if said else []
            faults += problems(whole, out, pictures)
            yield (
                f"round {number + 1}: a worker, a node and the driver killed, "
                f"{'workers write' if write else 'the driver writes'}, "
                f"{time.monotonic() - began:.1f} s"
            )
    finally:
        nodes.end()
    yield from (f"fault: {found}" for found in faults)
    if not faults:
        yield "0 lost, 0 doubled, all equal to the bit"


def main() -> int:
    """Runs it and returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pictures", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=2)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        faults = print_told(soak(Path(folder), chosen.pictures, chosen.rounds))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
