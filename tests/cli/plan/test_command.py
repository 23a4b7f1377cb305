"""`scalekv plan` as a user sees it, and runs that are refused because they cannot fit."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from scalekv.cli.plan import room
from scalekv.cli.plan import room as memory_given
from scalekv.infinity_patch.machine import machine
from tests.cli.conftest import Outcome, StandIn

Program = Callable[..., Outcome]

GIB = 2**30
LARGE = ("plan", "--model", "infinity-8b", "--gpu-memory", "80GB")


def figures(scalekv: Program, *arguments: str) -> dict[str, Any]:
    done = scalekv(*arguments, "--json")
    assert done.code == 0, done.err
    found: dict[str, Any] = json.loads(done.out)
    return found


@pytest.fixture
def no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (memory_given, room):
        monkeypatch.setattr(module, "device_memory", lambda _: None)


def test_a_plan_says_what_fits(scalekv: Program) -> None:
    done = scalekv(*LARGE, "--batch", "8", "--budget", "10%")
    assert done.code == 0
    for words in ("infinity-8b, bf16", "8 pictures at once", "cache transient", "fits,"):
        assert words in done.out
    assert "n² d" not in done.out
    assert "n² d" in scalekv(*LARGE, "--bound").out
    assert done.err == ""
    found = figures(scalekv, *LARGE, "--batch", "8", "--budget", "10%")
    assert found["fits"] is True
    assert found["totals"]["scales"] == sum(
        count for part, count in found["stages"]["scales"].items() if part != "runtime"
    )
    rows = {row["budget"]: row for row in found["budgets"]}
    assert {"full", "50%", "20%", "10%", "4%", "paper-10"} <= rows.keys()
    assert [row["budget"] for row in found["budgets"] if row["asked"]] == ["10%"]
    assert rows["full"]["fits"] is False
    batches = [row["largest_batch"] for row in found["budgets"]]
    assert batches == sorted(batches), "smaller budgets take larger batches"


def test_a_calibrated_model_says_how_sparse_its_attention_is(scalekv: Program) -> None:
    found = figures(scalekv, "plan")["sparsity"]
    assert found["carried"] == 0.99
    assert f"{found['share']:.1%} of all" in found["meaning"]
    assert found["meaning"] in " ".join(scalekv("plan", "--bound").out.split())
    assert "sparsity" not in figures(scalekv, *LARGE)


@pytest.mark.parametrize("budget", ["full", "10%"])
def test_the_largest_batch_is_the_largest(scalekv: Program, budget: str) -> None:
    found = figures(scalekv, *LARGE, "--fit", "batch", "--budget", budget)
    assert found["fits"]
    more = figures(scalekv, *LARGE, "--batch", str(found["pictures"] + 1), "--budget", budget)
    assert not more["fits"]


def test_the_largest_budget_is_the_largest(scalekv: Program) -> None:
    arguments = ("--batch", "12", "--ratio", "2:3")
    found = figures(scalekv, *LARGE, *arguments, "--fit", "budget")
    assert found["fits"]
    tokens = found["budget"]["mean"]
    more = figures(scalekv, *LARGE, *arguments, "--budget", str(tokens + 1))
    assert not more["fits"]


def test_placement_and_precision_count(scalekv: Program) -> None:
    plain = figures(scalekv, *LARGE)
    offloaded = figures(scalekv, *LARGE, "--offload", "--text-device", "cpu")
    blocks = plain["stages"]["load"]["transformer"] - offloaded["stages"]["load"]["transformer"]
    assert blocks > 13 * GIB
    assert offloaded["stages"]["load"]["text_encoder"] == 0
    small = figures(scalekv, *LARGE, "--kv-dtype", "int4")
    assert small["cache"]["held_peak_bytes"] < plain["cache"]["held_peak_bytes"] / 3
    away = figures(scalekv, *LARGE, "--kv-device", "cpu")
    assert away["stages"]["scales"]["cache_held"] == 0
    alone = figures(scalekv, *LARGE, "--cfg", "1")
    assert alone["cache"]["held_peak_bytes"] * 2 == plain["cache"]["held_peak_bytes"]


def test_what_cannot_be_planned_is_refused(scalekv: Program, no_device: None) -> None:
    for arguments, words in (
        (("--gpu-memory", "80"), "a number and a unit"),
        (("--gpu-memory", "80XB"), "80XB"),
        (("--gpu-memory", "80GB", "--device", "cpu"), "two devices"),
        (("--device", "cuda"), "--gpu-memory 80GB"),
        (("--fit", "batch", "--gpu-memory", "4GB", "--model", "infinity-8b"), "not even one"),
        (("--model", "infinity-9b"), "infinity-8b"),
        (("--budget", "0.001%"), "at least"),
    ):
        refused = scalekv("plan", *arguments)
        assert refused.code == 2, arguments
        assert words in refused.err, (arguments, refused.err)


def test_without_a_device_this_machine_is_planned_for(scalekv: Program, no_device: None) -> None:
    found = figures(scalekv, "plan")
    assert found["device"]["type"] == "cpu"
    assert found["device"]["memory_bytes"] == machine.memory_bytes()
    assert figures(scalekv, "plan", "--dtype", "fp32")["dtype"] == "fp32"


def test_a_device_is_asked_for_its_memory(
    scalekv: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_given, "device_memory", lambda name: (f"a {name}", 24 * GIB))
    found = figures(scalekv, "plan", "--model", "infinity-2b", "--device", "cuda:1")
    assert found["device"] == {"type": "cuda", "name": "a cuda:1", "memory_bytes": 24 * GIB}


def test_planning_imports_no_torch() -> None:
    code = (
        "import sys; from scalekv.cli.main import main; "
        "main(['plan', '--model', 'infinity-2b', '--policy', 'h2o', '--gpu-memory', '24GB']); "
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_a_run_that_cannot_fit_is_refused_before_loading(
    scalekv: Program, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "device_memory", lambda _: ("a small card", 12 * GIB))
    many = ("generate", "a", "-n", "9", "--model", "infinity-2b", "--policy", "full")
    refused = scalekv(*many, "--batch-size", "8")
    assert refused.code == 2
    assert stand_in.loaded == []
    for text in ("a small card", "8 pictures at once", "--policy scalekv --budget", "--force"):
        assert text in " ".join(refused.err.split()), refused.err
    words = " ".join(refused.err.split()).split("--batch-size ")[1]
    fitting = words.split(",")[0]
    assert scalekv(*many, "--batch-size", fitting).code == 0
    assert scalekv(*many, "--batch-size", str(int(fitting) + 1)).code == 2
    assert scalekv(*many, "--batch-size", "8", "--force").code == 0
    assert len(stand_in.loaded) == 2


def test_a_single_picture_that_cannot_fit_is_told_what_helps(
    scalekv: Program, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "device_memory", lambda _: ("a card", 10 * GIB))
    refused = scalekv("generate", "a", "--model", "infinity-8b", "--budget", "4%")
    assert refused.code == 2
    assert "--offload" in refused.err
    monkeypatch.setattr(room, "device_memory", lambda _: ("a tiny card", GIB))
    assert "a smaller model" in scalekv("generate", "a", "--model", "infinity-8b").err


def test_this_machine_counts_for_its_own_processor(
    scalekv: Program, stand_in: StandIn, no_device: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "memory_bytes", lambda: 8 * GIB)
    refused = scalekv("generate", "a", "--model", "infinity-8b")
    assert refused.code == 2
    assert "this machine" in refused.err
    assert scalekv("generate", "a").code == 0


def test_a_coded_cache_is_planned_with_its_constants_apart(scalekv: Program) -> None:
    found = figures(scalekv, "plan", "--policy", "coded", "--budget", "5%")
    full = found["full_caches"][0]["bytes"]
    assert found["coded"]["budget_bytes"] == full * 5 // 100
    assert 0.97 * full / 20 < found["cache"]["held_peak_bytes"] <= full / 20
    assert found["stages"]["scales"]["cache_constants"] == found["coded"]["constants_bytes"]
    phrase = " ".join(scalekv("plan", "--policy", "coded", "--budget", "5%").out.split())
    assert "every token" in phrase
    assert "once for any batch" in phrase


def test_a_plan_mentions_the_coded_cache_where_there_are_constants(scalekv: Program) -> None:
    assert figures(scalekv, "plan")["alternative"] == "coded"
    assert "--policy coded" in scalekv("plan").out
    large = figures(scalekv, *LARGE)
    assert large["alternative"] is None
    takes = large["calibrating_coded"]
    assert 0 < takes["device_bytes"] < 4 << 30
    assert takes["device_bytes"] < takes["gradients"]["device_bytes"] < 16 << 30
    assert takes["host_bytes"] < takes["gradients"]["host_bytes"] < 6 << 30
    assert "calibrate --coded has measured" in " ".join(scalekv(*LARGE).out.split())


@pytest.mark.parametrize(
    ("arguments", "phrase"),
    [
        (("--kv-dtype", "int8"), "in a way of its own"),
        (("--budget", "0.1%"), "less than one token"),
        (("--model", "infinity-2b"), "no coded.safetensors is known for infinity-2b"),
    ],
)
def test_what_a_coded_cache_cannot_do_is_refused(
    scalekv: Program, arguments: tuple[str, ...], phrase: str
) -> None:
    done = scalekv("plan", "--policy", "coded", *arguments)
    assert done.code == 2
    assert phrase in " ".join(done.err.split())


def test_a_coded_cache_is_planned_without_torch() -> None:
    code = (
        "import sys; from scalekv.cli.main import main; sys.argv[1:] = "
        "['plan', '--policy', 'coded', '--json']\n"
        "try: main()\nexcept SystemExit: pass\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
