"""`scalekv calibrate` as a user sees it, with the built-in model and two prompts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from scalekv.cli import engine
from scalekv.cli.calibrate import heat_maps
from scalekv.cli.plan import room
from scalekv.configs.budget_files import load_budget
from scalekv.configs.models import model_named
from scalekv.infinity_patch import Placement
from scalekv.infinity_patch.asked.request import Request
from scalekv.infinity_patch.asked.settled import settle
from scalekv.infinity_patch.calibration.plan import (
    INDICES,
    TOP,
    CalibrationRequest,
    check_calibration,
)
from scalekv.kv import extras
from scalekv.kv.budgets.heat_order import read_order
from scalekv.kv.coded.constants import read_constants
from scalekv.kv.errors import UserError
from tests.cli.conftest import Outcome

Program = Callable[..., Outcome]
BESIDE = ["own-attention.json", "own-heat-order.json", "own-index.png", "own-s-cas.png"]


@pytest.fixture
def prompts() -> str:
    Path("prompts.txt").write_text("# two\na frog\n\na blue book\n")
    return "prompts.txt"


def names(folder: str = ".") -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir())


def test_from_prompts_to_a_budget_that_draws(scalekv: Program, prompts: str) -> None:
    done = scalekv("calibrate", "--prompts", prompts, "--out", "b/own.yaml", "--drafters", "2")
    assert done.code == 0, done.err
    paths = done.out.splitlines()
    assert paths[0] == "b/own.yaml"
    assert sorted(paths) == sorted(f"b/{name}" for name in [*BESIDE, "own.yaml"])
    assert names("b") == sorted([*BESIDE, "own.yaml"])
    for words in ("model emoji (default), 2 prompts", "drafters (layers from 0)", "99% of the"):
        assert words in done.err

    spec = load_budget("b/own.yaml", "emoji")
    numbers = json.loads(Path("b/own-attention.json").read_text())
    assert spec.percent == 10
    assert numbers["provenance"]["weights"] in spec.provenance
    assert sum(map(len, numbers["drafters"].values())) == 6
    assert read_order(Path("b/own-heat-order.json").read_text()).layers == 8
    for name in BESIDE[2:]:
        with Image.open(f"b/{name}") as image:
            assert image.format == "PNG"
            assert len(image.convert("RGB").getcolors(2**24) or ()) > 50, "nothing is drawn"

    drawn = scalekv("generate", "a frog", "--budget", "b/own.yaml", "--json", "--quiet")
    assert drawn.code == 0, drawn.err
    budget = json.loads(drawn.out)["report"]["cache"]["budget"]
    assert budget["origin"] == spec.provenance


def test_json_quiet_and_overwrite(scalekv: Program, prompts: str) -> None:
    Path("own.yaml").write_text("mine")
    asked = ("calibrate", "--prompts", prompts, "--out", "own.yaml", "--no-plots")
    refused = scalekv(*asked)
    assert (refused.code, names()) == (2, ["own.yaml", "prompts.txt"])
    assert "--overwrite" in refused.err
    assert Path("own.yaml").read_text() == "mine"
    done = scalekv(*asked, "--overwrite", "--json", "--quiet")
    assert (done.code, done.err) == (0, "")
    facts = json.loads(done.out)
    assert facts["paths"] == ["own.yaml", "own-heat-order.json", "own-attention.json"]
    assert facts["provenance"]["prompts"] == 2
    assert names() == sorted([*facts["paths"], "prompts.txt"])
    assert load_budget("own.yaml").model == "emoji"


@pytest.fixture
def never(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: Any) -> Any:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(engine, "load", load)


@pytest.mark.usefixtures("never", "prompts")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--prompts", "none.txt"], ["cannot read the prompts", "none.txt"]),
        (["--prompts", "empty.txt"], ["no prompt", "empty.txt"]),
        (["--model", "emojy"], ["emojy", "did you mean emoji"]),
        (["--model", "infinity-2b"], ["scalekv download infinity-2b"]),
        (["--budget", "full"], ["--budget", "a percentage"]),
        (["--drafters", "8"], ["--drafters"]),
        (["--index", "asi"], ["--index", "paper, share"]),
        (["--top", "0"], ["top"]),
        (["--out", "own.json"], ["--out own.yaml"]),
        (["--out", "folder.yaml"], ["folder.yaml is a folder"]),
        (["--out", "prompts.txt/own.yaml"], ["cannot write to the folder"]),
        (["--out", "taken.yaml"], ["taken-heat-order.json is there already", "--overwrite"]),
    ],
)
def test_refusals_before_loading(scalekv: Program, arguments: list[str], words: list[str]) -> None:
    Path("empty.txt").touch()
    Path("folder.yaml").mkdir()
    Path("taken-heat-order.json").touch()
    before = names()
    given = ["--prompts", "prompts.txt", *arguments]
    done = scalekv("calibrate", *given)
    assert (done.code, done.out, names()) == (2, "", before), done.err
    for word in words:
        assert word in done.err


@pytest.mark.usefixtures("never")
def test_without_matplotlib(
    scalekv: Program, prompts: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    done = scalekv("calibrate", "--prompts", prompts)
    assert (done.code, names()) == (2, ["prompts.txt"])
    assert "pip install matplotlib" in done.err
    assert "--no-plots" in done.err


def test_an_interruption_leaves_nothing(
    scalekv: Program, prompts: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure = engine.calibrate

    def calibrate(pipeline: Any, request: Any, on_progress: Any, on_picture: Any) -> Any:
        def interrupted(picture: Any) -> None:
            raise KeyboardInterrupt

        return measure(pipeline, request, on_progress, interrupted)

    monkeypatch.setattr(engine, "calibrate", calibrate)
    done = scalekv("calibrate", "--prompts", prompts, "--out", "new/own.yaml")
    assert (done.code, done.out, names()) == (130, "", ["prompts.txt"])
    assert done.err.endswith("interrupted\n")


def test_the_help_says_what_there_is(scalekv: Program) -> None:
    done = scalekv("calibrate", "--help")
    assert done.code == 0
    text = " ".join(done.out.replace("│", " ").split())
    for index in INDICES:
        assert f"{index}:" in text
    assert f"[default: {TOP}]" in text


def test_maps_of_a_deep_model() -> None:
    """As many layers and scales as infinity-8b has."""
    scales, layers, heads = 13, 40, 2
    row = [0.1] * heads
    numbers = {
        "provenance": {"model": "m", "prompts": 10},
        "index": [[None] * layers]
        + [[scale / layers for _ in range(layers)] for scale in range(12)],
        "drafters": {"9": [0, 1], "10": [0]},
        "s_cas": [[[row] * layers for _ in range(scales)] for _ in range(scales)],
    }
    for content in (heat_maps.index_map(numbers), heat_maps.mass_maps(numbers)):
        assert content.startswith(b"\x89PNG")


def test_constants_of_a_coded_cache_are_measured_and_drawn_with(
    scalekv: Program, prompts: str
) -> None:
    names = ("--prompts", prompts, "--no-plots", "--out", "b/own.yaml")
    done = scalekv("calibrate", "--coded", "--coded-prompts", "1", *names)
    assert done.code == 0, done.err
    assert "picture 3/3" in done.err, "two prompts, the first of them twice"
    assert "b/own-coded.safetensors" in done.out.splitlines()
    constants = read_constants(Path("b/own-coded.safetensors").read_bytes())
    numbers = json.loads(Path("b/own-attention.json").read_text())
    assert constants.about["weights"] == numbers["provenance"]["weights"]
    assert (constants.about["model"], constants.about["prompts"]) == ("emoji", 1)
    assert numbers["provenance"]["prompts"] == 2

    policy = "coded:b/own-coded.safetensors"
    drawn = scalekv("generate", "a frog", "--policy", policy, "--budget", "3%", "--json", "--quiet")
    assert drawn.code == 0, drawn.err
    cache = json.loads(drawn.out)["report"]["cache"]
    assert cache["coded"]["constants_sha256"] == constants.sha256
    assert cache["coded"]["constants_bytes"] == constants.nbytes
    assert 0.028 < cache["ratio_history"] <= 0.03

    again = scalekv("calibrate", "--prompts", prompts, "--coded", "--out", "b/own.yaml")
    assert again.code == 2
    assert "is there already" in again.err


@pytest.mark.parametrize("options", [("--gradients",), ("--coded-prompts", "4")])
def test_options_of_coded_alone_are_refused(scalekv: Program, options: tuple[str, ...]) -> None:
    done = scalekv("calibrate", *options, "--out", "b/own.yaml")
    assert done.code == 2
    assert f"fix:   --coded {options[0]}" in done.err


def test_what_measuring_takes_counts_before_anything_is_loaded(
    scalekv: Program, prompts: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = settle(Request(("a frog",), policy="full"), model_named("emoji"), "cpu")
    needed = room.planner_of(full, Placement(), None).footprint().needed
    monkeypatch.setattr(room, "memory_bytes", lambda: needed)
    room.check_room(full, room.target_of("cpu"), Placement(), None)
    done = scalekv("calibrate", "--prompts", prompts, "--coded", "--device", "cpu")
    assert done.code == 2
    assert "of this machine beside" in " ".join(done.err.split())
    assert "to measure with" in " ".join(done.err.split())


def test_gradients_are_refused_where_blocks_come_and_go() -> None:
    request = CalibrationRequest(Request(("a",)), coded=True, gradients=True)
    with pytest.raises(UserError, match="only one of them is on the device") as refused:
        check_calibration(request, model_named("emoji"), device="cuda", offload=True)
    assert refused.value.where == "--gradients"


@pytest.mark.parametrize(
    ("coded", "asked", "given", "measured"),
    [(False, None, 16, 0), (True, None, 16, 8), (True, None, 3, 3), (True, 12, 16, 12)],
)
def test_how_many_prompts_constants_are_of(
    coded: bool, asked: int | None, given: int, measured: int
) -> None:
    request = CalibrationRequest(Request(("a",) * given), coded=coded, coded_prompts=asked)
    assert request.pictures_coded == measured
