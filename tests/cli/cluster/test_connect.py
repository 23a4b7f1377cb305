"""How many workers a cluster has room for, and what is asked of Ray for each."""

from __future__ import annotations

import signal
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from scalekv.cli.cluster import connect
from scalekv.cli.cluster.asked import ClusterAsked
from scalekv.cli.cluster.connect import Room, connected
from scalekv.kv.errors import UserError


class Cluster:
    """The module, with a cluster of so many CPUs and GPUs."""

    def __init__(self, **resources: float) -> None:
        self.resources = resources
        self.started: list[dict[str, Any]] = []
        self.fails: list[Exception] = []
        self.left = 0

    def init(self, **named: Any) -> None:
        self.started.append(named)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # as Ray does
        if self.fails:
            raise self.fails.pop()
        self.resources.setdefault("CPU", named.get("num_cpus", 0))

    def cluster_resources(self) -> dict[str, float]:
        return self.resources

    def shutdown(self) -> None:
        self.left += 1


@pytest.fixture(autouse=True)
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connect, "sensible_threads", lambda: 2)
    for told in ("_QUIET", "_ALONE"):  # what Ray is told by the environment, which others see too
        monkeypatch.setattr(connect, told, {})


def room(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, device: str = "auto", **asked: Any
) -> Room:
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(**_methods(cluster)))
    with connected(ClusterAsked(**asked), device, 1) as found:
        return found


def _methods(cluster: Cluster) -> dict[str, Any]:
    return {name: getattr(cluster, name) for name in ("init", "cluster_resources", "shutdown")}


@pytest.mark.parametrize(
    ("resources", "asked", "device", "expected"),
    [
        ({}, {}, "auto", Room("cpu", 2, 1.0, 0.0, True)),
        ({}, {"workers": 3}, "auto", Room("cpu", 3, 1.0, 0.0, True)),
        ({"GPU": 4}, {}, "auto", Room("cuda", 4, 0.0, 1.0, True)),
        ({"GPU": 4}, {"gpus": 0.5}, "auto", Room("cuda", 8, 0.0, 0.5, True)),
        ({"GPU": 4}, {"gpus": 2.0}, "cuda", Room("cuda", 2, 0.0, 2.0, True)),
        ({"GPU": 4}, {}, "cpu", Room("cpu", 2, 1.0, 0.0, True)),
        (
            {"GPU": 16, "CPU": 64},
            {"address": "auto"},
            "auto",
            Room("cuda", 16, 1.0, 1.0, False),
        ),
        ({"CPU": 6}, {"address": "auto"}, "auto", Room("cpu", 6, 1.0, 0.0, False)),
        # machines with GPUs are to come
        (
            {"CPU": 6},
            {"address": "auto", "workers": 4},
            "cuda",
            Room("cuda", 4, 1.0, 1.0, False),
        ),
    ],
)
def test_room(
    monkeypatch: pytest.MonkeyPatch,
    resources: dict[str, float],
    asked: dict[str, Any],
    device: str,
    expected: Room,
) -> None:
    cluster = Cluster(**resources)
    assert room(cluster, monkeypatch, device, **asked) == expected
    assert cluster.left == 1


def test_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(CPU=6)
    with pytest.raises(UserError, match="no 1 GPUs"):
        room(cluster, monkeypatch, "cuda", address="auto")
    assert cluster.left == 1


def test_signals_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    def mine(*_: object) -> None: ...

    before = signal.signal(signal.SIGTERM, mine)
    try:
        room(Cluster(), monkeypatch)
        assert signal.getsignal(signal.SIGTERM) is mine
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_slow_start_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster()
    cluster.fails = [Exception("The current node timed out during startup")] * 2
    assert room(cluster, monkeypatch).workers == 2
    assert len(cluster.started) == 3


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ConnectionError("no"), "no cluster answers at auto"),
        (RuntimeError("Version mismatch: 3.11\nmore"), "cannot be used: Version mismatch: 3.11"),
    ],
)
def test_a_cluster_that_cannot_be_joined(
    monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    cluster = Cluster()
    cluster.fails = [error]
    with pytest.raises(UserError) as refused:
        room(cluster, monkeypatch, address="auto")
    assert said in refused.value.what
