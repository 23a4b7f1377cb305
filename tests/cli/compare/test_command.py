"""`scalekv compare` as a user sees it, with a stand-in for the model and once with the real one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from scalekv.infinity_patch.files.hub import BUILT_IN
from tests.cli.conftest import Outcome, StandIn

Program = Callable[..., Outcome]
WEIGHTS = BUILT_IN / "emoji" / "transformer.safetensors"


def asked(stand_in: StandIn) -> list[tuple[Any, Any]]:
    return [(request.policy, request.budget) for request in stand_in.requests]


def test_every_policy_under_every_budget(scalekv: Program, stand_in: StandIn) -> None:
    done = scalekv(
        *("compare", "an owl", "a fox", "-n", "2", "--seed", "5"),
        *("--budget", "20%,10%", "--policy", "scalekv", "--policy", "snapkv"),
    )
    assert done.code == 0, done.err
    assert done.out == "out/compare.png\nout/compare.json\n"
    assert len(stand_in.loaded) == 1
    assert asked(stand_in) == [
        ("full", "full"),
        ("scalekv", "20%"),
        ("scalekv", "10%"),
        ("snapkv", "20%"),
        ("snapkv", "10%"),
    ]
    facts = json.loads(Path("out/compare.json").read_text())
    assert [(p["prompt"], p["seed"]) for p in facts["pictures"]] == [
        ("an owl", 5),
        ("an owl", 6),
        ("a fox", 7),
        ("a fox", 8),
    ]
    assert facts["outcome"] == "complete"
    assert [v["label"] for v in facts["variants"]][:2] == ["full", "scalekv 20%"]
    # the stand-in's pictures depend on nothing but their number
    assert facts["variants"][1]["identical"] == 4
    assert facts["pictures"][0]["scores"]["scalekv 20%"] == {"psnr_db": None, "ssim": 1.0}
    assert "Against the full cache, 4 pictures each" in done.err


def test_every_dtype_and_what_each_takes(scalekv: Program, stand_in: StandIn) -> None:
    wanted = ("compare", "an owl", "--budget", "10%,full", "--kv-dtype", "auto,int8")
    done = scalekv(*wanted)
    assert done.code == 0, done.err
    assert [
        (*pair, r.kv_dtype) for pair, r in zip(asked(stand_in), stand_in.requests, strict=True)
    ] == [
        ("full", "full", "auto"),
        ("scalekv", "10%", "auto"),
        ("scalekv", "10%", "int8"),
        ("full", "full", "int8"),
    ]
    facts = json.loads(Path("out/compare.json").read_text())
    labels = ["full", "10% auto", "10% int8", "full int8"]
    assert [v["label"] for v in facts["variants"]] == labels
    assert all(v["seconds"] == {"median": 0.5} for v in facts["variants"])
    assert facts["pictures"][0]["seconds"] == dict.fromkeys(labels, 0.5)
    assert "seconds" in done.err
    refused = scalekv("compare", "x", "--kv-dtype", "fp8")
    assert refused.code == 2
    assert "fp8" in refused.err


def test_prompts_are_drawn_once_for_all(
    scalekv: Program, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("p.txt").write_text("a {red|blue|green} owl\n")
    wanted = ("compare", "@p.txt", "--seed", "random", "-n", "4", "--wildcards", "on")
    assert scalekv(*wanted, "--budget", "20%,10%").code == 0
    assert len({(r.prompts, r.seed, r.seeds) for r in stand_in.requests}) == 1
    monkeypatch.setenv("SCALEKV_OUT", "fox.png")
    done = scalekv("compare", "x")
    assert done.code == 2
    assert "compare fills a folder" in done.err


def test_defaults_and_duplicates(scalekv: Program, stand_in: StandIn) -> None:
    assert scalekv("compare", "x").code == 0
    assert asked(stand_in) == [("full", "full"), ("scalekv", "10%")]
    stand_in.requests.clear()
    assert scalekv("compare", "x", "--budget", "full,10%,10%", "--policy", "full,h2o").code == 0
    assert asked(stand_in) == [("full", "full"), ("h2o", "10%")]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--budget", "full"], ["compared with itself", "--budget 20%,10%"]),
        (["--policy", "full"], ["compared with itself"]),
        (["--budget", "10%,150%"], ["150%"]),
        (["--policy", "scalekv,snapk"], ["did you mean snapkv"]),
        (["--side", "3"], ["--side"]),
        (["--ratio", "3:2"], ["--ratio 1:1"]),
    ],
)
def test_refusals(
    scalekv: Program, stand_in: StandIn, arguments: list[str], words: list[str]
) -> None:
    done = scalekv("compare", "x", *arguments)
    assert (done.code, done.out, stand_in.loaded) == (2, "", [])
    assert not Path("out").exists()
    for word in words:
        assert word in done.err


def test_json_and_kept_pictures(scalekv: Program, stand_in: StandIn) -> None:
    done = scalekv("compare", "an owl", "--json", "--keep", "--quiet", "--out", "c")
    assert (done.code, done.err) == (0, "")
    facts = json.loads(done.out)
    assert (facts["sheet"], facts["report_path"]) == ("c/compare.png", "c/compare.json")
    kept = sorted(str(path) for path in Path("c").rglob("*.png"))
    assert kept == ["c/0-full/0-an-owl.png", "c/1-10/0-an-owl.png", "c/compare.png"]
    assert not list(Path("c").rglob(".*"))


def test_ctrl_c_keeps_whole_rows(scalekv: Program, stand_in: StandIn) -> None:
    stand_in.fail_at, stand_in.error = 1, KeyboardInterrupt()
    done = scalekv("compare", "a", "b", "c")
    assert done.code == 130
    assert done.err.splitlines()[-1].startswith("interrupted")
    facts = json.loads(Path("out/compare.json").read_text())
    assert (facts["outcome"], len(facts["pictures"])) == ("interrupted", 1)
    assert stand_in.closed


def test_ctrl_c_before_the_first_row(scalekv: Program, stand_in: StandIn) -> None:
    stand_in.fail_at, stand_in.error = 0, KeyboardInterrupt()
    assert scalekv("compare", "a").code == 130
    assert not Path("out").exists()


def test_an_unwritable_folder(scalekv: Program, stand_in: StandIn) -> None:
    Path("out").write_text("a file")
    assert scalekv("compare", "x").code == 2
    assert stand_in.loaded == []


@pytest.mark.skipif(not WEIGHTS.exists(), reason="the built-in model's weights are not here")
def test_the_real_model(scalekv: Program) -> None:
    budgets = ("--budget", "100%,5%")
    done = scalekv("compare", "a red apple", *budgets, "--json", "--keep", "--agreement")
    assert done.code == 0, done.err
    facts = json.loads(done.out)
    full, all_of_it, little = facts["variants"]
    assert all_of_it["identical"] == 1
    assert all_of_it["held_peak_bytes"] == full["held_peak_bytes"]
    assert 10 < little["psnr_db"]["median"] < 60
    assert 0.3 < little["ssim"]["mean"] < 1
    assert little["held_peak_bytes"] < full["held_peak_bytes"] / 5
    assert all_of_it["bits"] == full["bits"]
    assert full["bits"]["agreement_by_scale"] == [1.0] * 7
    shares = little["bits"]["agreement_by_scale"]
    assert shares[:3] == [1.0] * 3  # before anything is dropped
    assert 0.5 < min(shares) < 1
    with Image.open(facts["sheet"]) as sheet:
        assert sheet.width >= 3 * 128
    assert scalekv("generate", "a red apple", "--policy", "full", "--quiet").code == 0
    with (
        Image.open("out/0-a-red-apple.png") as alone,
        Image.open("out/0-full/0-a-red-apple.png") as beside,
    ):
        assert alone.tobytes() == beside.tobytes()
