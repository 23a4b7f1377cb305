"""`scalekv generate` as a user sees it, with a stand-in for the model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from scalekv.infinity_patch.loading.placement import Placement
from scalekv.infinity_patch.machine.machine import sensible_threads
from tests.cli.conftest import Outcome, StandIn

Program = Callable[..., Outcome]


def names(folder: str = "out") -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir())


def test_a_picture_with_defaults(scalekv: Program, stand_in: StandIn) -> None:
    done = scalekv("generate", "a red apple")
    assert done.code == 0
    assert done.out == "out/0-a-red-apple.png\n"
    assert names() == ["0-a-red-apple.json", "0-a-red-apple.png", "report.json"]
    assert stand_in.loaded == [("emoji", "auto", "auto", None)]
    request = stand_in.requests[0]
    assert (request.policy, request.budget, request.ratio) == ("scalekv", "10%", "1:1")
    for words in ("model emoji (default)", "budget 10%", "the most the cache held"):
        assert words in done.err
    sidecar = json.loads(Path("out/0-a-red-apple.json").read_text())
    assert sidecar["settings"]["model"] == "emoji"
    assert sidecar["model_chosen_by"] == "default"
    assert "scales" not in sidecar["cache"]


def test_the_report(scalekv: Program, stand_in: StandIn) -> None:
    assert scalekv("generate", "a", "b", "-n", "2", "--seed", "5").code == 0
    report = json.loads(Path("out/report.json").read_text())
    assert report["outcome"] == "complete"
    assert report["model"] == {"name": "emoji", "chosen_by": "default"}
    assert [p["file"] for p in report["pictures"]] == ["5-a.png", "6-a.png", "7-b.png", "8-b.png"]
    cache = report["cache"]
    assert cache["held_peak_bytes"] == cache["full_bytes"] // 10
    assert cache["transient_peak_bytes"] == 5000
    assert report["ratio_history"] == cache["ratio_history"] == pytest.approx(0.1, abs=1e-6)
    assert report["ratio_all"] == pytest.approx(0.1 * 265 / 521, abs=1e-6)
    assert report["weights_bytes"]["all"] == 30_005_000
    assert report["memory"] == {"process_peak_bytes": 60_000_000}
    parts = report["stages"]["scales"]["parts"]
    assert sum(parts.values()) == 60_000_000
    assert parts["cache_held"] == cache["held_peak_bytes"]
    assert report["stages"]["load"]["parts"]["cache_held"] == 0
    assert report["stages"]["load"]["parts"]["text_encoder"] == 5_000
    assert parts["text_encoder"] == 0, "it is not there any more"
    assert [full["ratio"] for full in report["full_caches"][:2]] == [
        report["ratio_history"],
        report["ratio_all"],
    ]


def test_runs_share_a_folder(scalekv: Program, stand_in: StandIn) -> None:
    first, second = scalekv("generate", "an owl"), scalekv("generate", "an owl")
    assert (first.out, second.out) == ("out/0-an-owl.png\n", "out/0-an-owl-2.png\n")
    assert {"report.json", "report-2.json"} < set(names())


def test_json(scalekv: Program, stand_in: StandIn) -> None:
    done = scalekv("generate", "a", "b", "--json", "--out", "here", "--quiet")
    assert (done.code, done.err) == (0, "")
    facts = json.loads(done.out)
    assert facts["paths"] == ["here/0-a.png", "here/1-b.png"]
    assert facts["report_path"] == "here/report.json"
    assert facts["report"]["cache"]["full_bytes"] > 0


def test_every_option_arrives(scalekv: Program, stand_in: StandIn) -> None:
    done = scalekv(
        *("generate", "x", "--cfg", "1,2,3,3,3,3,3", "--tau", "0.5", "--top-p", "0"),
        *("--negative", "blurry", "--truncate", "--dtype", "bf16", "--device", "cpu"),
        *("--weights-dir", "w", "--reproducible", "--budget", "20%", "--pixels", "0.06M"),
        *("--cfg-layer", "-5,-1", "--positive-prompt", "--offload", "--keep-text-encoder"),
        *("--text-device", "cpu", "--text-dtype", "bf16"),
    )
    assert done.code == 0, done.err
    request = stand_in.requests[0]
    assert request.cfg == (1, 2, 3, 3, 3, 3, 3)
    assert (request.cfg_layer, request.positive_prompt) == ((-5, -1), True)
    assert stand_in.placement == Placement(True, "cpu", "bf16", True, threads=sensible_threads())
    assert (request.tau, request.top_p, request.negative) == (0.5, 0, "blurry")
    assert request.truncate
    assert request.reproducible
    assert (request.budget, request.pixels) == ("20%", "0.06M")
    assert stand_in.loaded == [("emoji", "cpu", "bf16", Path("w"))]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), ("scalekv", "10%")),
        (("--budget", "full"), ("full", "full")),
        (("--policy", "full"), ("full", "full")),
        (("--policy", "full", "--budget", "full"), ("full", "full")),
        (("--policy", "scalekv", "--budget", "full"), ("scalekv", "full")),
    ],
)
def test_full(
    scalekv: Program,
    stand_in: StandIn,
    arguments: tuple[str, ...],
    expected: tuple[str, str],
) -> None:
    done = scalekv("generate", "x", "--memory-report", "table", *arguments)
    assert done.code == 0, done.err
    assert (stand_in.requests[0].policy, stand_in.requests[0].budget) == expected
    assert ("nothing is dropped" in done.err) == ("full" in expected)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["x", "--model", "infinity-2"], ["infinity-2b", "--model", "did you mean"]),
        (["x", "--policy", "scalkv"], ["scalkv", "did you mean scalekv"]),
        (["x", "--budget", "150%"], ["150%", "at most 100"]),
        (["x", "--budget", "nonsense"], ["nonsense", "a percentage"]),
        (["x", "--budget", "none.yaml"], ["none.yaml", "check the path"]),
        (["x", "--budget", "infinity-2b/paper-10"], ["infinity-2b", "emoji"]),
        (["x", "--policy", "full", "--budget", "10%"], ["--policy full", "--budget 10%", "fix:"]),
        (["x", "--ratio", "7:9"], ["7:9", "width:height"]),
        (["x", "--ratio", "3:2"], ["emoji", "--ratio 1:1"]),
        (["x", "--pixels", "9M"], ["9M", "0.06M"]),
        (["x", "--size", "1248x832"], ["emoji", "--size", "the nearest is 128x128"]),
        (["x", "--size", "big"], ["big", "width x height"]),
        (["x", "--size", "128x128", "--ratio", "1:1"], ["given twice", "--size and --ratio"]),
        (["x", "--cfg-layer", "1"], ["guidance layer 1", "--cfg-layer"]),
        (["x", "--cfg-layer", "a"], ["'a'", "--cfg-layer"]),
        (["x", "--text-dtype", "bf17"], ["bf17", "--text-dtype"]),
        (["x", "--text-device", "gpu"], ["'gpu'", "--text-device"]),
        (["x", "--cfg", "1,2"], ["2 values for 7 scales", "--cfg"]),
        (["x", "--cfg", "much"], ["much", "one number"]),
        (["x", "--cfg", "nan"], ["--cfg", "finite"]),
        (["x", "--tau", "0"], ["--tau", "at least"]),
        (["x", "--dtype", "bf17"], ["bf17", "did you mean bf16"]),
        (["x", "--device", "gpu"], ["'gpu'", "cuda:1"]),
        (["x", "--pixels", "1M"], ["emoji", "--pixels"]),
        (["word " * 600], ["600 tokens", "--truncate"]),
        (["a", "  "], ["prompt is empty", "prompt 2 of 2"]),
        (["x", "--seed", str(2**63 - 1), "-n", "2"], ["--seed"]),
        (["x\udcff"], ["UTF-8"]),
        (["x", "--seed", "-1"], ["--seed"]),
        (["x", "--top-p", "1.5"], ["--top-p"]),
        (["x", "-n", "0"], ["-n"]),
        (["x", "--budgt", "10%"], ["--budgt", "--budget"]),
    ],
)
def test_refusals(
    scalekv: Program, stand_in: StandIn, arguments: list[str], words: list[str]
) -> None:
    done = scalekv("generate", *arguments)
    assert (done.code, done.out) == (2, "")
    assert stand_in.loaded == []
    assert not Path("out").exists()
    for word in words:
        assert word in done.err
    assert "Traceback" not in done.err


def test_missing_weights_are_named_before_anything_is_loaded(scalekv: Program) -> None:
    done = scalekv("generate", "x", "--model", "infinity-2b")
    assert done.code == 2
    assert "scalekv download infinity-2b" in done.err
    assert not Path("out").exists()


def test_an_unwritable_folder(scalekv: Program, stand_in: StandIn) -> None:
    Path("out").write_text("a file")
    done = scalekv("generate", "x")
    assert done.code == 2
    assert "--out" in done.err
    assert stand_in.loaded == []


def test_ctrl_c_keeps_what_is_done(scalekv: Program, stand_in: StandIn) -> None:
    stand_in.fail_at, stand_in.error = 2, KeyboardInterrupt()
    done = scalekv("generate", "a", "b", "c")
    assert done.code == 130
    assert done.out == "out/0-a.png\nout/1-b.png\n"
    assert done.err.splitlines()[-1] == "interrupted; 2 pictures kept in out"
    assert stand_in.closed
    report = json.loads(Path("out/report.json").read_text())
    assert (report["outcome"], report["pictures_wanted"]) == ("interrupted", 3)
    assert len(report["pictures"]) == 2


def test_ctrl_c_before_the_first(scalekv: Program, stand_in: StandIn) -> None:
    stand_in.fail_at, stand_in.error = 0, KeyboardInterrupt()
    done = scalekv("generate", "a")
    assert done.code == 130
    assert done.err.splitlines()[-1] == "interrupted; 0 pictures kept"
    assert not Path("out").exists()


def test_a_failure_keeps_what_is_done(
    scalekv: Program, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in.fail_at, stand_in.error = 1, ValueError("boom\nand more")
    done = scalekv("generate", "a", "b")
    assert (done.code, done.out) == (1, "out/0-a.png\n")
    assert "failed: ValueError: boom\n" in done.err
    assert "--verbose" in done.err
    assert "Traceback" not in done.err
    done = scalekv("generate", "a", "b", "--json", "--out", "again")
    assert json.loads(done.out)["paths"] == ["again/0-a.png"]
    assert json.loads(done.out)["report"]["outcome"] == "failed"
    monkeypatch.setenv("SCALEKV_DEBUG", "1")
    assert "Traceback" in scalekv("generate", "a", "b").err


@pytest.mark.parametrize("budget", ["265", "100%", "1GiB"])
def test_a_budget_that_drops_nothing_is_said(
    scalekv: Program, stand_in: StandIn, budget: str
) -> None:
    done = scalekv("generate", "a", "--budget", budget)
    assert f"budget {budget} drops nothing: all 265 tokens of history fit" in done.err
    report = json.loads(Path("out/report.json").read_text())
    assert report["cache"]["budget"]["label"] == budget
    assert report["cache"]["budget"]["evicts"] is False
    for other in ("264", "10%", "2MiB", "full"):
        assert "drops nothing:" not in scalekv("generate", "a", "--budget", other).err


def test_truncation_is_said(scalekv: Program, stand_in: StandIn) -> None:
    stand_in.truncated = "the tail of it"
    done = scalekv("generate", "a", "--truncate")
    assert "not used: the tail of it" in done.err
    assert json.loads(Path("out/0-a.json").read_text())["truncated"] == "the tail of it"


@pytest.mark.parametrize("columns", ["20", "60", "200"])
def test_any_width_without_colour(
    scalekv: Program, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setenv("NO_COLOR", "1")
    done = scalekv("generate", "a")
    assert done.out == "out/0-a.png\n"
    assert "\x1b" not in done.err
    assert all(len(line) <= 200 for line in done.err.splitlines())


def test_the_model_and_who_chose_it(
    scalekv: Program, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("model: infinity-8b\nout: elsewhere\n")
    monkeypatch.setenv("SCALEKV_CONFIG", str(file))
    assert f"model infinity-8b (config file {file})" in scalekv("generate", "a").err
    sidecar = json.loads(Path("elsewhere/0-a.json").read_text())
    assert sidecar["model_chosen_by"] == f"config file {file}"
    monkeypatch.setenv("SCALEKV_MODEL", "infinity-125m")
    assert "model infinity-125m (SCALEKV_MODEL)" in scalekv("generate", "a").err
    assert "model emoji (--model)" in scalekv("generate", "a", "--model", "emoji").err
    monkeypatch.setenv("SCALEKV_MODEL", "infinty-2b")
    done = scalekv("generate", "a")
    assert done.code == 2
    assert "where: SCALEKV_MODEL" in done.err


def test_every_default_can_be_set(
    scalekv: Program, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(
        "cfg: [1, 2, 3, 3, 3, 3, 3]\ntop_p: 0.9\nratio: 1:1\nseed: 40\nnum_images: 2\n"
        "truncate: yes\nnegative: blur, dark\nquiet: true\n"
    )
    monkeypatch.setenv("SCALEKV_CONFIG", str(file))
    monkeypatch.setenv("SCALEKV_TAU", "0.5")
    monkeypatch.setenv("SCALEKV_NUM_IMAGES", "3")
    done = scalekv("generate", "x", "--seed", "7", "--no-truncate")
    assert (done.code, done.err) == (0, "")
    request = stand_in.requests[0]
    assert (request.cfg, request.top_p, request.tau) == ((1, 2, 3, 3, 3, 3, 3), 0.9, 0.5)
    assert (request.seed, request.num_images, request.ratio) == (7, 3, "1:1")
    assert (request.truncate, request.negative) == (False, "blur, dark")


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("SEED", "-1", ["from 0 to"]),
        ("NUM_IMAGES", "many", ["at least 1"]),
        ("TOP_P", "0.1,0.2", ["one number"]),
        ("CFG", "x", ["one number, or one per scale"]),
        ("TRUNCATE", "maybe", ["true or false"]),
        ("QUIET", "maybe", ["true or false"]),
        ("RATIO", "round", ["'round'"]),
    ],
)
def test_bad_variables(
    scalekv: Program,
    stand_in: StandIn,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    value: str,
    words: list[str],
) -> None:
    monkeypatch.setenv(f"SCALEKV_{name}", value)
    done = scalekv("generate", "x")
    assert (done.code, stand_in.loaded) == (2, [])
    for word in words:
        assert word in done.err


def test_pictures_are_whole_files(scalekv: Program, stand_in: StandIn) -> None:
    scalekv("generate", "a", "b")
    for name in ("out/0-a.png", "out/1-b.png"):
        with Image.open(name) as image:
            image.load()
            assert image.size == (8, 8)


def test_a_size_instead_of_ratio_and_pixels(
    scalekv: Program, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(*arguments: str) -> tuple[str, str | None]:
        done = scalekv("generate", "x", "--model", "infinity-2b", *arguments)
        assert done.code == 0, done.err
        request = stand_in.requests[-1]
        return request.ratio, request.pixels

    assert asked("--size", "1248x832") == ("3:2", "1M")
    monkeypatch.setenv("SCALEKV_SIZE", "512x512")
    assert asked() == ("1:1", "0.25M")
    assert asked("--ratio", "2:1") == ("2:1", None)  # what is typed decides
    monkeypatch.setenv("SCALEKV_RATIO", "2:1")
    assert asked("--size", "1024x1024") == ("1:1", "1M")


def test_the_text_encoder_is_freed_unless_it_is_to_be_kept(
    scalekv: Program, stand_in: StandIn
) -> None:
    scalekv("generate", "x")
    assert stand_in.placement == Placement(keep_text_encoder=False, threads=sensible_threads())
