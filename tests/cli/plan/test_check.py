"""`scalekv plan`: its exit codes, its own examples, and the batch size it plans for."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable

import pytest

from scalekv.cli.plan import room
from scalekv.cli.plan.command import EPILOG
from tests.cli.conftest import Outcome

Program = Callable[..., Outcome]

SMALL = ("plan", "--model", "infinity-2b", "--gpu-memory", "4GB")
LARGE = ("plan", "--model", "infinity-2b", "--gpu-memory", "24GB")
EXAMPLES = [line.strip() for line in EPILOG.splitlines() if line.startswith("  scalekv plan")]


@pytest.mark.parametrize("example", EXAMPLES)
def test_its_examples_work(scalekv: Program, monkeypatch: pytest.MonkeyPatch, example: str) -> None:
    monkeypatch.setattr(room, "device_memory", lambda _: ("a card", 24 * 2**30))
    words = shlex.split(example.partition(" >")[0])
    done = scalekv(*words[1:])
    assert (done.code, done.err) == (0, "")


def test_a_plan_that_does_not_fit_is_a_plan(scalekv: Program) -> None:
    assert len(EXAMPLES) >= 3
    done = scalekv(*SMALL)
    assert (done.code, done.err) == (0, "")
    assert "does not fit" in done.out


def test_a_check_refuses_what_does_not_fit(scalekv: Program) -> None:
    done = scalekv(*SMALL, "--check")
    assert done.code == 2
    assert done.out == scalekv(*SMALL).out
    for word in ("it does not fit: 8.1 GiB of 3.7 GiB", "--fit budget"):
        assert word in done.err
    for_programs = scalekv(*SMALL, "--check", "--json")
    assert for_programs.code == 2
    assert json.loads(for_programs.out)["fits"] is False
    assert json.loads(for_programs.err)["error"]["kind"] == "refused"
    fine = scalekv(*LARGE, "--check")
    assert (fine.code, fine.err) == (0, "")


def test_a_check_where_nobody_knows_the_memory(
    scalekv: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "memory_bytes", lambda: None)
    done = scalekv("plan", "--device", "cpu", "--check")
    assert done.code == 2
    assert "--gpu-memory" in done.err


def test_the_batch_size_is_one_option(scalekv: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    def pictures(*arguments: str) -> int:
        done = scalekv(*LARGE, "--json", *arguments)
        assert done.code == 0, done.err
        together: int = json.loads(done.out)["pictures"]
        return together

    assert pictures() == 1
    assert pictures("--batch-size", "3") == pictures("--batch", "3") == 3
    monkeypatch.setenv("SCALEKV_BATCH_SIZE", "2")
    assert pictures() == 2
    assert pictures("--batch-size", "auto") == 1
    refused = scalekv(*LARGE, "--batch-size", "0")
    assert (refused.code, "--batch-size" in refused.err) == (2, True)
