"""`scalekv budgets`: what there is, what one comes to, and a new one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from scalekv.cli.budgets.blocks import BLOCKS, DIGITS, heat
from scalekv.configs.budget_files import list_budgets, load_budget
from scalekv.infinity_patch.schedules import schedule_for
from scalekv.kv.budgets.asked import capacities_for
from tests.cli.conftest import Outcome

Program = Callable[..., Outcome]
SMALL = capacities_for(schedule_for("1:1", "0.06M"), 8, (0, 3), 26)
LARGE = capacities_for(schedule_for("1:1", "1M"), 32, (0, 23), 650)


def test_the_list(scalekv: Program) -> None:
    done = scalekv("budgets")
    assert (done.code, done.err) == (0, "")
    assert "infinity-2b/paper-10" in done.out
    assert "layers 0, 23; from scale 13 on layer 0" in done.out
    facts = json.loads(scalekv("budgets", "--json").out)["budgets"]
    assert len(facts) == len(list_budgets())
    only = json.loads(scalekv("budgets", "--json", "--model", "infinity-8b").out)["budgets"]
    assert {budget["model"] for budget in only} == {"infinity-8b"}


def test_show_a_share(scalekv: Program) -> None:
    done = scalekv("budgets", "show", "10%")
    assert done.code == 0, done.err
    assert "26 tokens per layer and head in the mean, 9.8% of the history" in done.out
    assert "    3     4x4        5  " + "█" * 16 in done.out
    assert "\x1b" not in done.out


def test_show_as_json(scalekv: Program) -> None:
    facts = json.loads(scalekv("budgets", "show", "infinity-2b/paper-10", "--json").out)
    assert (facts["mean"], facts["history_tokens"], facts["evicts"]) == (650, 6425, True)
    assert (max(facts["capacities"][-1]), min(facts["capacities"][-1])) == (6385, 465)
    # no moment holds more than 32 * 650 tokens of 2 * 16 * 128 * 2 * 2 bytes: 325 MiB
    assert facts["held_peak_bytes"] == 32 * 650 * (2 * 16 * 128 * 2 * 2)


@pytest.mark.parametrize(
    ("arguments", "held"),
    [(["infinity-2b/paper-10"], "325.0 MiB"), (["10%"], "416.0 KiB"), (["full"], "4.1 MiB")],
)
def test_what_is_held_is_what_a_plan_says(
    scalekv: Program, arguments: list[str], held: str
) -> None:
    shown = scalekv("budgets", "show", *arguments).out
    assert f"  held       {held} at most" in shown
    model, _, budget = arguments[0].rpartition("/")
    plan = ("plan", "--gpu-memory", "80GB", "--json", "--budget", budget)
    planned = json.loads(scalekv(*plan, "--model", model or "emoji").out)
    facts = json.loads(scalekv("budgets", "show", *arguments, "--json").out)
    assert facts["held_peak_bytes"] == planned["cache"]["held_peak_bytes"]


def test_what_drops_nothing(scalekv: Program) -> None:
    output = scalekv("budgets", "show", "full").out
    assert "all 265 tokens of the history fit: nothing is dropped" in output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["show", "paper-10"], ["name its model too: infinity-2b/paper-10"]),
        (["show", "paper-10", "--model", "emoji"], ["for emoji"]),
        (["show", "0%"], ["above 0"]),
        (["show", "none.yaml"], ["none.yaml", "check the path"]),
        (["show", "10%", "--ratio", "3:2"], ["--ratio 1:1"]),
        (["new", "b.yaml"], ["neither is given"]),
        (["new", "b.yaml", "--percent", "10", "--mean", "5"], ["both are given"]),
        (["new", "b", "--percent", "10"], ["ends in .yaml"]),
        (["new", "b.yaml", "--percent", "0"], ["above 0"]),
        (["new", "b.yaml", "--mean", "0"], ["at least 1"]),
        (["new", "b.yaml", "--mean", "20", "--drafters", "0,8"], ["8"]),
        (["new", "b.yaml", "--mean", "20", "--drafters", "few"], ["--drafters 0,23"]),
        (["new", "b.yaml", "--mean", "20", "--window", "0"], ["window"]),
        (["new", "there.yaml", "--mean", "20"], ["exists already"]),
    ],
)
def test_refusals(scalekv: Program, arguments: list[str], words: list[str]) -> None:
    Path("there.yaml").write_text("mine")
    done = scalekv("budgets", *arguments)
    assert (done.code, done.out) == (2, "")
    for word in words:
        assert word in done.err
    assert [path.name for path in Path().iterdir()] == ["there.yaml"]
    assert Path("there.yaml").read_text() == "mine"


def test_a_new_one(scalekv: Program) -> None:
    done = scalekv(
        *("budgets", "new", "made/b.yaml", "--percent", "12.5", "--drafters", "1:0,3;6:0"),
        *("--note", "tried by hand", "--window", "8"),
    )
    assert (done.code, done.out) == (0, "made/b.yaml\n"), done.err
    spec = load_budget("made/b.yaml", "emoji")
    assert (float(spec.percent or 0), spec.drafters, spec.window) == (12.5, {1: (0, 3), 6: (0,)}, 8)
    assert spec.provenance == "tried by hand"
    shown = scalekv("budgets", "show", "made/b.yaml").out
    assert "33 tokens per layer" in shown
    assert "layers 0, 3; from scale 6 on layer 0" in shown


def test_new_ones_take_the_models_drafters(scalekv: Program) -> None:
    assert scalekv("budgets", "new", "b.yaml", "--mean", "40").code == 0
    assert load_budget("b.yaml").drafters == load_budget("emoji/default").drafters
    assert scalekv("budgets", "new", "u.yaml", "--mean", "40", "--drafters", "none").code == 0
    assert not load_budget("u.yaml").drafters


def test_an_unwritable_folder(scalekv: Program) -> None:
    Path("file").write_text("")
    done = scalekv("budgets", "new", "file/b.yaml", "--mean", "40")
    assert done.code == 2
    assert "cannot write" in done.err


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_the_picture_fits(width: int) -> None:
    for budget in (SMALL, LARGE):
        lines = [line.plain for line in heat(budget, width)]
        assert max(map(len, lines)) <= width
        shown = "".join(lines[1 : len(budget.schedule) + 1])
        assert set(shown) & set(BLOCKS)


def test_blocks_are_shares() -> None:
    rows = [line.plain for line in heat(SMALL, 80)][1:]
    assert rows[0].split() == ["1", "1x1", "0", "0", "0"]
    last = rows[-1].split()
    assert last[:3] == ["7", "16x16", "265"]
    cells = [last[3][2 * layer] for layer in range(8)]
    steps = [BLOCKS.index(cell) for cell in cells]
    assert steps == [int(8 * SMALL.capacity(6, layer) / 265) for layer in range(8)]


def test_without_unicode_and_colour() -> None:
    text = "".join(line.plain for line in heat(LARGE, 80, encoding="ascii"))
    assert text.isascii()
    assert set(DIGITS) & set(text)
    console = Console(no_color=True, force_terminal=True, width=80)
    with console.capture() as capture:
        for line in heat(LARGE, 80):
            console.print(line)
    assert "38;" not in capture.get()
