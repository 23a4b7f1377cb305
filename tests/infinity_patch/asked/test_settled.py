"""What a request comes to, once: for a device and a dtype, and for what differs from it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from scalekv.configs.models import model_named
from scalekv.infinity_patch.asked import budgets, settled
from scalekv.infinity_patch.asked.request import Request
from scalekv.infinity_patch.asked.settled import settle
from scalekv.kv.errors import UserError

EMOJI = model_named("emoji")
GOOD = Request(("a red apple",))


def test_what_the_preset_says_is_filled_in() -> None:
    found = settle(GOOD, EMOJI, "cpu", "fp32")
    sampling = EMOJI.sampling
    assert found.cfg == (sampling.cfg,) * 7
    assert found.tau == (sampling.tau,) * 7
    assert (found.top_p, found.cfg_layers) == (sampling.top_p, (sampling.cfg_layer,))
    assert (found.policy_name, found.asked.label, found.planned) == ("scalekv", "10%", found.asked)
    assert settle(replace(GOOD, policy="full"), EMOJI, "cpu").planned is None
    pyramid = settle(replace(GOOD, policy="pyramidkv"), EMOJI, "cpu")
    assert pyramid.planned is not None
    assert pyramid.planned.capacities != pyramid.asked.capacities


@pytest.mark.parametrize(
    ("device", "change", "batch"),
    [
        ("cpu", {"batch_size": 4}, 1),
        ("cpu", {"batch_size": 4, "reproducible": False}, 4),
        ("cuda", {"batch_size": 4}, 4),
        ("cuda", {"batch_size": 4, "reproducible": True}, 1),
        ("cuda", {"batch_size": "auto"}, None),
        ("cuda", {"batch_size": "auto", "budget": "1MiB"}, 1),
    ],
)
def test_the_batch(device: str, change: dict[str, Any], batch: int | None) -> None:
    found = settle(replace(GOOD, **change), EMOJI, device)
    assert found.batch == batch
    assert found.together == (batch or 1)
    assert found.shape.sequences == 2 * found.together


def test_a_device_is_known_by_its_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settled, "of_processor", lambda: frozenset({"avx2"}))
    monkeypatch.setattr(settled, "device_memory", lambda _: None)
    found = settle(GOOD, EMOJI)
    assert (found.device, found.dtype) == ("cpu", "fp32")
    monkeypatch.setattr(settled, "device_memory", lambda _: ("a card", 1))
    found = settle(GOOD, EMOJI)
    assert (found.device, found.dtype) == ("cuda", "bf16")
    assert settle(GOOD, EMOJI, "cuda:1").device == "cuda"


def test_where_it_turns_out_to_run() -> None:
    found = settle(replace(GOOD, budget="1MiB", batch_size=2), EMOJI, "cuda", "bf16")
    assert found.on("cuda", "bf16") is found
    moved = found.on("cpu", "fp32")
    assert moved.batch == 1
    assert moved.asked.mean == found.asked.mean  # twice the bytes, half the pictures
    assert moved == settle(found.request, EMOJI, "cpu", "fp32")
    share = settle(replace(GOOD, batch_size=2), EMOJI, "cuda", "bf16")
    assert share.on("cpu", "fp32").asked is share.asked


def test_other_prompts_and_batches_need_no_other_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    found = settle(replace(GOOD, batch_size=4, reproducible=False), EMOJI, "cpu", "fp32")
    held = settle(replace(found.request, budget="2MiB"), EMOJI, "cpu", "fp32")
    monkeypatch.setattr(budgets, "parse_budget", None)  # nobody asks what the budget was again
    fewer = replace(found.request, prompts=("an owl",), seeds=(3,), batch_size=2)
    assert found.of(fewer).asked is found.asked
    assert (found.of(fewer).batch, found.of(fewer).request) == (2, fewer)
    assert held.of(replace(held.request, batch_size=2)).asked.mean == 2 * held.asked.mean
    assert held.of(replace(held.request, prompts=("an owl",))).asked is held.asked
    assert held.allotted(1).asked.mean == 4 * held.asked.mean
    with pytest.raises(UserError, match="less than one token"):
        held.allotted(1000)


def test_what_is_told_of_a_budget_that_drops_nothing() -> None:
    for budget, idle in (("10%", False), (300, True), ("100%", True), ("full", False)):
        assert settle(replace(GOOD, budget=budget), EMOJI, "cpu").idle is idle
    assert not settle(replace(GOOD, policy="full", budget=300), EMOJI, "cpu").idle
