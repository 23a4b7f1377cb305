"""What a run takes lighter of its own accord where not even one picture would fit otherwise."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from scalekv.cli.plan import room
from tests.cli.conftest import Outcome, StandIn

Program = Callable[..., Outcome]
GB = 10**9


def on_a_card(monkeypatch: pytest.MonkeyPatch, memory: int) -> None:
    monkeypatch.setattr(room, "device_memory", lambda _: ("a card", memory))


def test_weights_and_text_are_taken_lighter_and_it_is_said(
    scalekv: Program, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_a_card(monkeypatch, 12 * GB)
    wanted = ("a", "--model", "infinity-8b", "--budget", "paper-10")
    done = scalekv("generate", *wanted)
    assert done.code == 0, done.err
    placement = stand_in.placement
    assert placement is not None
    assert (placement.weights, placement.text_device) == ("int8", "cpu")
    chosen = ("--weights", "bf16", "--text-device", "cuda")
    assert scalekv("generate", *wanted, *chosen).code == 2
    found = json.loads(scalekv("plan", *wanted[1:], "--json").out)
    assert (found["fits"], found["weights_dtype"]) == (True, "int8")
    assert found["options"] == "--weights int8 --text-device cpu"
    assert "weights in int8" in scalekv("plan", *wanted[1:]).out


def test_a_larger_batch_is_no_reason(
    scalekv: Program, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_a_card(monkeypatch, 12 * GB)
    refused = scalekv("generate", "a", "-n", "64", "--batch", "64", "--model", "infinity-2b")
    assert (refused.code, stand_in.loaded) == (2, [])
    assert "--batch-size" in refused.err


@pytest.mark.parametrize(("model", "memory"), [("infinity-8b", 12 * GB), ("infinity-2b", 6 * GB)])
def test_cards_that_people_have(scalekv: Program, model: str, memory: int) -> None:
    card = ("plan", "--model", model, "--budget", "paper-10", "--gpu-memory", f"{memory}B")
    assert scalekv(*card, "--check").code == 0
