"""A batch that is killed, at every step and at any moment, and then resumed: nothing is lost,
nothing is made twice, nothing is left lying about."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scalekv.cli.main import main
from tests.cli.batch.test_command import ALL, check_folder
from tests.cli.conftest import Outcome, StandIn
from tests.cli.test_main import PROGRAM

Program = Callable[..., Outcome]

ALIKE = ("--quiet", "--threads", "1")  # last bits depend on the number of threads
STEPS = ("open", "write", "fsync", "link", "replace", "unlink", "close", "ftruncate", "mkdir")
"""Calls that change files or come between those that do; open and close are `os`'s own."""


def in_child(work: Callable[[], object]) -> int:
    """Runs it in a copy of this process; returns how that ended, minus a signal's number."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def killed_at(step: int, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Runs the program in a child that kills itself before its `step`-th call of `STEPS`."""
    calls = 0

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*given: Any, **named: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*given, **named)

        return run

    def work() -> None:
        for name in STEPS:
            monkeypatch.setattr(os, name, counted(getattr(os, name)))
        main(["batch", "p.txt", "--quiet", *arguments])

    return in_child(work)


def contents(folder: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).glob("*.png")}


def no_links(*_: object) -> None:
    raise OSError(errno.EPERM, os.strerror(errno.EPERM))


@pytest.mark.parametrize("links", [True, False], ids=["links", "no links"])
def test_killed_before_every_step(
    scalekv: Program, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    if not links:
        monkeypatch.setattr(os, "link", no_links)
    Path("p.txt").write_text("an owl\na fox\n")
    assert scalekv("batch", "p.txt", "--out", "whole").code == 0
    whole = contents("whole")
    step = 0
    while True:
        step += 1 if links else 3
        out = f"killed-{step}"
        if killed_at(step, monkeypatch, "--out", out) == 0:
            break
        # without links a kill may leave a name that has no content yet
        found = {name for name, data in contents(out).items() if data}
        done = scalekv("batch", "p.txt", "--out", out, "--resume")
        assert done.code == 0, done.err
        assert {Path(line).name for line in done.out.splitlines()} == set(ALL[:2]) - found
        assert contents(out) == whole
        check_folder(out, ALL[:2])
    assert step > 25  # several for every picture


def test_killed_again_and_again(stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("p.txt").write_text("an owl\na fox\na cat\n")
    for chance in range(5):
        steps = random.Random(chance)
        out = f"out-{chance}"
        while killed_at(steps.randrange(1, 30), monkeypatch, "--resume", "--out", out) != 0:
            pass
        check_folder(out)


def contents_soon(folder: str, count: int) -> dict[str, bytes]:
    """The pictures of a folder as soon as there are `count`."""
    limit = time.monotonic() + 120
    while len(found := contents(folder)) < count:
        assert time.monotonic() < limit
        time.sleep(0.01)
    return found


def test_the_built_in_model_killed_in_the_middle(
    scalekv: Program, encoded_before: Callable[..., None]
) -> None:
    prompts = ("an owl", "a red apple", "a fox")
    encoded_before(*prompts)
    Path("p.txt").write_text("\n".join(prompts))
    program = subprocess.Popen(
        [*PROGRAM, "batch", "p.txt", *ALIKE, "--out", "killed"], stdout=subprocess.DEVNULL
    )
    found = contents_soon("killed", 1)
    program.kill()
    assert program.wait() == -signal.SIGKILL
    assert len(found) < 3
    assert scalekv("batch", "p.txt", *ALIKE, "--out", "killed", "--resume").code == 0
    check_folder("killed", sorted(contents("killed")))
    # in other company, in a part, and with another batch size: the same to the bit
    asked = ("batch", "p.txt", *ALIKE, "--batch-size", "2")
    assert scalekv(*asked, "--shard", "1/2", "--out", "part").code == 0
    assert scalekv(*asked, "--start", "1", "--limit", "1", "--out", "part").code == 0
    assert contents("part") == contents("killed")
