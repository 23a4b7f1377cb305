"""A cluster to draw on: one that runs, or one of this machine that ends with the batch.

Knows Ray's start and end, and keeps it quiet; nothing of pictures.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from scalekv.cli.cluster.asked import AUTO, ClusterAsked
from scalekv.cli.console.interrupts import SIGNALS, interrupts_wait
from scalekv.infinity_patch.machine.gpus import gpu_of
from scalekv.infinity_patch.machine.machine import sensible_threads, usable_cores
from scalekv.kv.errors import UserError

CPU, CUDA = "cpu", "cuda"
ANSWER_SECONDS = 10.0
"""That a cluster's head may take to answer before the address counts as wrong."""
TRIES = 3
"""To start a cluster here: Ray gives one 30 seconds, which a busy machine may not be enough for."""
OBJECTS_BYTES = 512 * 2**20
"""Room for pictures on their way from workers to the driver, on a machine of its own."""

_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_SCHEDULER_EVENTS": "0",  # what an autoscaler does, on stdout
    "RAY_DEDUP_LOGS": "1",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",  # what nodes say of workers that died, on stdout
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # a warning about what a later release changes
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # would copy the working folder to the nodes
}
_ALONE = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # one machine: all listens on 127.0.0.1, on Linux too
    "RAY_worker_niceness": "0",  # workers draw as this process would; Ray has 15
}


@dataclass(frozen=True)
class Room:
    """What a cluster has for workers.

    Attributes:
        device: of every worker, "cuda" or "cpu".
        workers: that there are to be.
        cpus, gpus: that Ray sets aside for each.
        started: the cluster is this batch's own.
    """

    device: str
    workers: int
    cpus: float
    gpus: float
    started: bool


@contextmanager
def connected(asked: ClusterAsked, device: str, threads: int) -> Iterator[Room]:
    """Connects to a cluster, or starts one; in the end leaves it, or ends it.

    Args:
        device: "auto", "cpu" or "cuda" as `--device` has it.
        threads: that a worker computes with.

    Raises:
        UserError: nobody answers at the address, or there is nothing there to draw on.
    """
    os.environ.update(_QUIET if asked.address else _QUIET | _ALONE)
    folder = None if asked.address else tempfile.mkdtemp(prefix="scalekv-ray-")
    try:
        with interrupts_wait(leave_at_second=True):  # half a cluster cannot be ended
            if folder is None:
                _join(asked)
            else:
                _start(asked, device, threads, folder)
        yield _room(asked, device, threads)
    finally:
        with interrupts_wait(leave_at_second=True):
            import ray

            ray.shutdown()
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)


def _start(asked: ClusterAsked, device: str, threads: int, folder: str) -> None:
    here = sensible_threads() or usable_cores()
    workers = asked.workers or max(here // threads, 1)
    _init(
        TRIES,
        address="local",
        num_cpus=workers * threads,
        num_gpus=0 if device == CPU or gpu_of(AUTO) is None else None,
        include_dashboard=False,
        object_store_memory=OBJECTS_BYTES,
        _temp_dir=folder,
    )


def _join(asked: ClusterAsked) -> None:
    assert asked.address is not None
    nobody = UserError(
        f"no cluster answers at {asked.address}",
        where="--address",
        rule="a cluster that runs: ray start --head on one machine, ray start --address on others",
        fix="leave out --address to draw on this machine alone",
    )
    if asked.address != AUTO:
        host, _, port = asked.address.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), ANSWER_SECONDS).close()
        except (OSError, OverflowError):
            raise nobody from None
    try:
        _init(1, address=asked.address)
    except ConnectionError:
        raise nobody from None
    except RuntimeError as error:  # other versions of Ray or Python
        raise UserError(
            f"the cluster at {asked.address} cannot be used: {_first_line(error)}",
            where="--address",
            rule="the same Python and the same Ray on all machines",
            fix="pip install the version of ray that the cluster has",
        ) from None


def _init(tries: int, **named: Any) -> None:
    """Starts or connects without a word; signals stay as they are."""
    import ray

    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        ray.init(log_to_driver=False, logging_level=logging.CRITICAL, **named)
    except Exception as error:
        ray.shutdown()
        if tries == 1 or "timed out" not in str(error):
            raise
        _init(tries - 1, **named)
    finally:
        for number, handler in before.items():  # Ray has one of its own for SIGTERM
            signal.signal(number, handler)


def _room(asked: ClusterAsked, device: str, threads: int) -> Room:
    import ray

    there = ray.cluster_resources()
    started = asked.address is None
    if device == AUTO:
        device = CUDA if there.get("GPU", 0) >= asked.gpus else CPU
    gpus = asked.gpus if device == CUDA else 0.0
    # on a machine of one's own the GPUs alone say how many workers there are
    cpus = 0.0 if started and gpus else float(threads)
    places = int(there.get("GPU", 0) / gpus) if gpus else int(there.get("CPU", 0) / cpus)
    workers = asked.workers or places
    if not workers:
        what = f"{gpus:g} GPUs" if gpus else f"{threads} CPUs"
        raise UserError(
            f"the cluster has no {what} for a worker",
            where="--device" if gpus else "--threads",
            rule="as much as one worker needs",
            fix="--device cpu draws without GPUs; --workers N waits for machines that are to come",
        )
    return Room(device, workers, cpus, gpus, started)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
