"""What a run takes lighter of its own accord where not even one picture would fit otherwise."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from scalekv.cli.plan import room
from scalekv.configs.models import model_named
from scalekv.infinity_patch import Request, pieces
from scalekv.infinity_patch.asked.settled import settle
from scalekv.infinity_patch.loading.placement import Placement
from scalekv.infinity_patch.planning.lighter import TEXT_FIRST, lightened
from scalekv.infinity_patch.planning.planner import Planner
from tests.cli.conftest import Outcome, StandIn

Program = Callable[..., Outcome]
GB = 10**9


def on_a_card(monkeypatch: pytest.MonkeyPatch, memory: int) -> None:
    monkeypatch.setattr(room, "device_memory", lambda _: ("a card", memory))


def test_weights_and_text_are_taken_lighter_and_it_is_said(
    scalekv: Program,
    stand_in: StandIn,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    on_a_card(monkeypatch, 12 * GB)
    wanted = ("a", "--model", "infinity-8b", "--budget", "paper-10")
    done = scalekv("generate", *wanted)
    assert done.code == 0, done.err
    placement = stand_in.placement
    assert placement is not None
    assert (placement.weights, placement.text_device) == ("int8", "auto")
    assert (placement.text_first, stand_in.texts) == (True, ["a"])
    assert "--weights int8, prompts encoded first: otherwise it would not fit" in caplog.text
    chosen = ("--weights", "bf16", "--text-device", "cuda")
    assert scalekv("generate", *wanted, *chosen).code == 2
    found = json.loads(scalekv("plan", *wanted[1:], "--json").out)
    assert (found["fits"], found["weights_dtype"]) == (True, "int8")
    assert found["options"] == "--weights int8, prompts encoded first"
    assert "weights in int8" in scalekv("plan", *wanted[1:]).out


MODEL = ("--model", "infinity-2b", "--pixels", "0.25M")
CARD = 8 * GB  # the whole model takes 8.7, a full picture with the encoder elsewhere 6.7


@pytest.mark.parametrize("command", ["generate", "batch", "compare"])
def test_prompts_that_are_known_are_encoded_before_the_transformer_is_read(
    scalekv: Program,
    stand_in: StandIn,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    command: str,
) -> None:
    on_a_card(monkeypatch, CARD)
    Path("p.txt").write_text("an owl\na fox\nan owl\n")
    prompts = {"generate": ("an owl", "a fox"), "batch": ("p.txt",), "compare": ("an owl",)}
    done = scalekv(command, *prompts[command], *MODEL, "--negative", "rain")
    assert done.code == 0, done.err
    assert "prompts encoded first: otherwise it would not fit" in caplog.text
    assert stand_in.placement is not None
    assert (stand_in.placement.text_first, stand_in.placement.text_device) == (True, "auto")
    wanted = {"an owl", "rain"} | ({"a fox"} if command != "compare" else set())
    assert (set(stand_in.texts), len(stand_in.texts)) == (wanted, len(wanted))


def test_what_is_left_of_a_batch_is_encoded_first(
    scalekv: Program, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_a_card(monkeypatch, CARD)
    Path("p.txt").write_text("an owl\na fox\n")
    stand_in.failing, stand_in.error = ("a fox",), RuntimeError("no")
    assert scalekv("batch", "p.txt", *MODEL).code == 1
    stand_in.failing, stand_in.error = (), None
    assert scalekv("batch", "p.txt", *MODEL, "--resume").code == 0
    assert stand_in.texts == ["a fox"]


def test_texts_that_are_too_many_or_to_come_or_an_encoder_that_stays_are_not_encoded_first(
    scalekv: Program, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The encoder would be read again, beside the transformer."""
    on_a_card(monkeypatch, CARD)
    monkeypatch.setattr(pieces, "REMEMBERED", 2)
    Path("p.txt").write_text("an owl\na fox\na cat\n")
    for command in (("batch", "p.txt"), ("generate", "an owl", "--keep-text-encoder")):
        assert scalekv(*command, *MODEL).code == 0
        assert stand_in.placement is not None
        assert (stand_in.placement.text_first, stand_in.placement.text_device) == (False, "cpu")
    settled = settle(Request(("a",), pixels="0.25M"), model_named("infinity-2b"), "cuda")
    served = Planner(settled, Placement(keep_text_encoder=False))
    assert lightened(served, CARD, texts_known=False)[1] == "--text-device cpu"
    assert lightened(served, CARD, texts_known=True)[1] == TEXT_FIRST


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
