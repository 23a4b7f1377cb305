"""Whether a run fits is answered alike wherever it is asked: plan, doctor, batch, generate and the
other commands that load a model, on whatever card, for whatever model and budget."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import mkdtemp

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from scalekv.cli.plan import room
from scalekv.configs.models import model_named
from scalekv.infinity_patch import Request
from scalekv.infinity_patch.asked.settled import settle
from scalekv.infinity_patch.loading.placement import Placement
from scalekv.infinity_patch.planning import health
from scalekv.infinity_patch.planning.planner import Planner
from scalekv.kv.sizes import size_text
from tests.cli.conftest import Outcome, StandIn

Program = Callable[..., Outcome]
GIB = 2**30
BUDGETS = ("full", "10%", "650", "100MiB")


def needed(model: str, budget: str, *, kept: bool) -> int:
    """Bytes of memory that one picture is planned to take on a card: where the encoder need not be
    kept, at least with the prompts encoded before the transformer is read."""
    request = Request(("a",), policy="full" if budget == "full" else None, budget=budget)
    settled = settle(request, model_named(model), "cuda")
    placement = Placement(keep_text_encoder=kept, text_first=not kept)
    return Planner(settled, placement).footprint().needed


def answers(scalekv: Program, model: str, budget: str, *, kept: bool) -> dict[str, bool]:
    """Who says that it fits."""
    what = ("--model", model, "--budget", budget)
    text = "--keep-text-encoder" if kept else "--free-text-encoder"
    planned = scalekv("plan", *what, text, "--json")
    rows = [row for row in json.loads(planned.out)["budgets"] if row["asked"]]
    Path("p.txt").write_text("an owl\n")
    out = mkdtemp(dir=".")
    return {
        "plan": json.loads(planned.out)["fits"],
        "row": rows[0]["fits"],
        "batch of one": rows[0]["largest_batch"] >= 1,
        "generate": scalekv("generate", "an owl", *what, text).code == 0,
        "batch": scalekv("batch", "p.txt", *what, text, "--out", out).code == 0,
    }


def doctors(scalekv: Program, model: str, budget: str) -> bool:
    """Whether the doctor says so; what else it looks at takes its time and is not this."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SCALEKV_BUDGET", budget)
        patch.setattr(health, "examine", lambda *_, **__: iter(()))
        found = json.loads(scalekv("doctor", "--model", model, "--json").out)["findings"]
    levels = [finding["level"] for finding in found if finding["name"] == "room"]
    assert len(levels) == 1, found
    return levels == ["ok"]


@pytest.fixture
def all_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is left to be made lighter."""
    monkeypatch.setenv("SCALEKV_WEIGHTS", "bf16")
    monkeypatch.setenv("SCALEKV_TEXT_DEVICE", "cuda")


@settings(
    max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(
    model=st.sampled_from(["emoji", "infinity-125m", "infinity-2b"]),
    budget=st.sampled_from(BUDGETS),
    card=st.one_of(st.sampled_from([8, 10, 12, 24, 80]), st.none()),
    beside=st.integers(-1, 1),
    kept=st.booleans(),
)
@example(model="infinity-2b", budget="10%", card=10, beside=0, kept=True)
@example(model="infinity-2b", budget="10%", card=10, beside=0, kept=False)
@example(model="infinity-8b", budget="10%", card=24, beside=0, kept=False)
def test_one_answer(
    scalekv: Program,
    stand_in: StandIn,
    all_chosen: None,
    monkeypatch: pytest.MonkeyPatch,
    model: str,
    budget: str,
    card: int | None,
    beside: int,
    kept: bool,
) -> None:
    """Cards of usual sizes; None: of a byte less, just as much, or a byte more than needed."""
    least = needed(model, budget, kept=kept)
    memory = least + beside if card is None else card * GIB
    monkeypatch.setattr(room, "device_memory", lambda _: ("a card", memory))
    fits = memory >= least
    found = answers(scalekv, model, budget, kept=kept)
    assert found == dict.fromkeys(found, fits)
    assert doctors(scalekv, model, budget) == (memory >= needed(model, budget, kept=False))


def test_a_batch_frees_the_text_encoder_as_planned_unless_it_is_to_keep_it(
    scalekv: Program, stand_in: StandIn, all_chosen: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "device_memory", lambda _: ("a card", 9 * GIB))
    Path("p.txt").write_text("an owl\n")
    refused = scalekv("batch", "p.txt", "--model", "infinity-2b", "--keep-text-encoder")
    assert refused.code == 2
    assert stand_in.loaded == []
    words = " ".join(refused.err.split())
    least = needed("infinity-2b", "10%", kept=True)
    assert 9 * GIB < least < 10 * GIB  # and not the 8 that it would be without
    assert f"would take {size_text(least)} of the {size_text(9 * GIB)} of a card" in words
    assert scalekv("batch", "p.txt", "--model", "infinity-2b").code == 0
    assert stand_in.placement is not None
    assert stand_in.placement.keep_text_encoder is False
    assert json.loads(scalekv("plan", "--model", "infinity-2b", "--json").out)["fits"]
    assert scalekv("generate", "an owl", "--model", "infinity-2b").code == 0


@pytest.mark.parametrize(
    ("command", "needs"),
    [
        (("compare", "an owl"), "full"),
        (("bench", "--rounds", "1", "--warmup", "0"), "10%"),
        (("calibrate", "--prompts", "p.txt", "--no-plots"), "full"),
    ],
)
def test_other_commands_that_load_a_model_ask_too(
    scalekv: Program,
    stand_in: StandIn,
    all_chosen: None,
    monkeypatch: pytest.MonkeyPatch,
    command: tuple[str, ...],
    needs: str,
) -> None:
    Path("p.txt").write_text("an owl\na fox\n")
    memory = needed("infinity-2b", needs, kept=command[0] != "compare") - 1
    monkeypatch.setattr(room, "device_memory", lambda _: ("a card", memory))
    refused = scalekv(*command, "--model", "infinity-2b", "--budget", "10%")
    assert refused.code == 2, refused
    assert "of a card" in refused.err
    assert stand_in.loaded == []
    assert "--force to try anyway" in " ".join(refused.err.split())
    scalekv(*command, "--model", "infinity-2b", "--budget", "10%", "--force")
    assert len(stand_in.loaded) == 1


def test_16_pictures_that_do_not_fit_are_told_why(
    scalekv: Program, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "device_memory", lambda _: ("a card", 10 * GIB))
    many = ("generate", "a", "-n", "16", "--model", "infinity-2b", "--budget", "200MiB")
    refused = scalekv(*many, "--batch-size", "16")
    assert refused.code == 2
    assert "16 pictures at once would take" in refused.err
    fitting = " ".join(refused.err.split()).split("--batch-size ")[1].split(",")[0]
    assert scalekv(*many, "--batch-size", fitting).code == 0
    assert scalekv(*many, "--batch-size", str(int(fitting) + 1)).code == 2


def test_a_budget_too_small_for_a_batch_is_a_batch_that_does_not_fit(scalekv: Program) -> None:
    card = ("plan", "--model", "infinity-2b", "--gpu-memory", "80GB", "--budget", "100MiB")
    found = json.loads(scalekv(*card, "--fit", "batch", "--json").out)
    assert found["fits"]
    more = scalekv(*card, "--batch", str(found["pictures"] + 1), "--json")
    assert not json.loads(more.out)["fits"]
    assert [row["budget"] for row in found["budgets"] if row["asked"]] == ["100MiB"]
    small = scalekv(*card, "--batch", "300")
    assert small.code == 2
    assert "less than one token" in small.err


def test_a_policy_that_needs_more_than_a_token_is_planned_within_its_means(
    scalekv: Program,
) -> None:
    card = ("plan", "--policy", "heatkv", "--fit", "budget", "--gpu-memory")
    refused = scalekv(*card, "600MB")
    assert refused.code == 2
    assert "not even the smallest budget fits" in refused.err
    assert "tokens per layer" not in refused.err
    assert json.loads(scalekv(*card, "1GB", "--json").out)["fits"]
    heat = Request(("a",), policy="heatkv", budget=21)
    settled = settle(heat, model_named("emoji"), "cuda")
    least = Planner(settled, Placement(keep_text_encoder=False))
    many = least.settled.allotted(64)
    memory = replace(least, settled=many, _known={}).footprint().needed
    fitted = scalekv(*card, f"{memory}B", "--batch", "64", "--json")
    assert json.loads(fitted.out)["budget"]["mean"] >= 21  # scales go whole: 22 hold no more
    assert scalekv(*card, f"{memory - 1}B", "--batch", "64").code == 2
