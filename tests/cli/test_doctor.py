"""`scalekv doctor` and `scalekv config`, as people and programs see them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from scalekv.cli.plan import room
from scalekv.infinity_patch.machine import gpus
from scalekv.infinity_patch.machine.gpus import Gpu
from tests.cli.conftest import Outcome

Program = Callable[..., Outcome]


def test_all_is_well(scalekv: Program) -> None:
    done = scalekv("doctor")
    assert (done.code, done.err) == (0, "")
    assert "ok      model emoji: built in" in done.out
    assert "\x1b" not in done.out


def test_a_problem_has_its_fix(scalekv: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "device_memory", lambda _: ("a card", 80 << 30))
    done = scalekv("doctor", "--model", "infinity-20b")
    assert done.code == 1
    assert done.err == "1 problem\n"
    assert "problem model infinity-20b: " in done.out
    assert "        fix: " in done.out


def test_memory_is_what_a_plan_says(scalekv: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "device_memory", lambda _: ("a card", 24 * 10**9))
    fine = "ok      room: 1 picture of infinity-8b, policy scalekv, budget 10%, would take 20.2 GiB"
    assert fine in scalekv("doctor", "--model", "infinity-8b").out
    monkeypatch.setattr(room, "device_memory", lambda _: ("a card", 20 << 30))
    lighter = "policy scalekv, budget 10%, prompts encoded first, would take 18.8 GiB"
    assert (
        f"ok      room: 1 picture of infinity-8b, {lighter}"
        in scalekv("doctor", "--model", "infinity-8b").out
    )
    monkeypatch.setattr(room, "device_memory", lambda _: ("a card", 18 << 30))
    monkeypatch.setenv("SCALEKV_TEXT_DEVICE", "cuda")
    monkeypatch.setenv("SCALEKV_WEIGHTS", "bf16")
    done = scalekv("doctor", "--model", "infinity-8b").out
    assert "problem room: 1 picture of infinity-8b" in done
    assert "fix: --weights int8 with one picture at a time" in done
    monkeypatch.setenv("SCALEKV_OFFLOAD", "true")
    assert "ok      room: " in scalekv("doctor", "--model", "infinity-8b").out


def test_memory_that_others_use_is_said(scalekv: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    busy = Gpu("a card", "570.1", 24 << 30, 4 << 30, 0.9)
    monkeypatch.setattr(room, "device_memory", lambda _: (busy.name, busy.total_bytes))
    monkeypatch.setattr(gpus, "gpu_of", lambda _: busy)
    done = scalekv("doctor", "--model", "infinity-2b").out
    assert "note    room: 1 picture of infinity-2b" in done
    assert "of which 4.0 GiB are free now" in done
    assert "ok      room: " in scalekv("doctor").out


def test_a_setting_that_cannot_be_is_a_finding(
    scalekv: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCALEKV_BUDGET", "0%")
    done = scalekv("doctor")
    assert done.code == 1
    assert "problem settings: 0% is not a share of the history (SCALEKV_BUDGET)" in done.out


def test_json(scalekv: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCALEKV_CONFIG", "/nowhere")
    done = scalekv("doctor", "--json", "--model", "emoji")
    assert done.code == 1
    facts = json.loads(done.out)
    bad = [finding for finding in facts["findings"] if finding["level"] == "problem"]
    assert facts["problems"] == len(bad) == 1
    assert bad[0]["name"] == "settings"
    assert "unset SCALEKV_CONFIG" in bad[0]["fix"]
    assert json.loads(done.err)["error"]["kind"] == "problems"


def test_an_unknown_model_is_a_finding(scalekv: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCALEKV_MODEL", "infinty-2b")
    done = scalekv("doctor")
    assert done.code == 1
    assert "no model named 'infinty-2b' (SCALEKV_MODEL)" in done.out
    assert "ok      torch" in done.out


def test_config_shows_who_said_it(
    scalekv: Program, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("budget: 20%\ncfg: [1, 2, 3, 3, 3, 3, 3]\n")
    monkeypatch.setenv("SCALEKV_CONFIG", str(file))
    monkeypatch.setenv("SCALEKV_POLICY", "snapkv")
    rows = {line.split()[0]: line.split(maxsplit=2)[1:] for line in lines(scalekv("config"))}
    assert rows["budget"] == ["20%", f"config file {file}"]
    assert rows["cfg"] == ["1,2,3,3,3,3,3", f"config file {file}"]
    assert rows["policy"] == ["snapkv", "SCALEKV_POLICY"]
    assert rows["tau"] == ["0.5", "preset emoji"]
    assert rows["model"] == ["emoji", "default"]
    facts = json.loads(scalekv("config", "--json").out)
    assert facts["config_file"] == str(file)
    assert facts["settings"]["policy"] == {
        "value": "snapkv",
        "from": "SCALEKV_POLICY",
        "variable": "SCALEKV_POLICY",
    }


def lines(done: Outcome) -> list[str]:
    assert (done.code, done.err) == (0, "")
    table, _, footer = done.out.partition("\n\n")
    assert footer.startswith("config file: ")
    return table.splitlines()


@pytest.mark.parametrize(
    "arguments", [["config"], ["doctor"], ["budgets"], ["budgets", "show", "10%"], ["models"]]
)
def test_a_reader_that_left_and_a_full_disk(arguments: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open("/dev/full", "w") as full:
        for stdout, expected, words in ((writer, 0, ""), (full, 1, "No space left")):
            done = subprocess.run(
                [sys.executable, "-m", "scalekv", *arguments],
                stdout=stdout,
                stderr=subprocess.PIPE,
                text=True,
                check=False,
            )
            assert (done.returncode, words in done.stderr) == (expected, True), done.stderr
    os.close(writer)
