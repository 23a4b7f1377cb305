"""`scalekv batch` as a user sees it, with a stand-in for the model."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable
from inspect import signature
from pathlib import Path
from typing import Any

import pytest

from scalekv.cli import engine
from scalekv.cli.batch.command import batch
from scalekv.cli.plan import room
from scalekv.configs.options import OPTIONS
from scalekv.infinity_patch.asked.settled import Settled
from tests.cli.conftest import Outcome, StandIn
from tests.cli.test_main import start

Program = Callable[..., Outcome]


@pytest.fixture(autouse=True)
def prompts() -> None:
    Path("p.txt").write_text("an owl\na fox\n# no more\na cat\n")


def pngs(folder: str = "out") -> list[str]:
    return sorted(path.name for path in Path(folder).glob("*.png"))


def manifest(folder: str = "out", name: str = "manifest.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(folder, name).read_text().splitlines()]


ALL = ["00000-0-an-owl.png", "00001-1-a-fox.png", "00002-2-a-cat.png"]


def check_folder(folder: str = "out", files: list[str] | None = None) -> None:
    """The manifest agrees with the folder, and nothing is left lying about."""
    found = set(os.listdir(folder))
    expected = ALL if files is None else files
    entries = [e for path in Path(folder).glob("manifest*") for e in manifest(folder, path.name)]
    assert sorted({entry["file"] for entry in entries}) == pngs(folder) == expected
    for entry in entries:
        data = Path(folder, entry["file"]).read_bytes()
        assert (entry["bytes"], entry["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
        assert entry["file"].replace(".png", ".json") in found
    assert not [name for name in found if name.endswith(".part")]


def test_a_batch(scalekv: Program, stand_in: StandIn) -> None:
    done = scalekv("batch", "p.txt")
    assert done.code == 0, done.err
    assert done.out.splitlines() == [f"out/{name}" for name in ALL]
    assert len(stand_in.loaded) == 1
    assert stand_in.requests[0].prompts == ("an owl", "a fox", "a cat")
    assert stand_in.requests[0].seeds == (0, 1, 2)
    check_folder()
    entry = manifest()[1]
    assert (entry["line"], entry["index"], entry["prompt"], entry["seed"]) == (2, 1, "a fox", 1)
    report = json.loads(Path("out/report.json").read_text())
    assert (report["outcome"], report["pictures_wanted"], report["failed"]) == ("complete", 3, [])
    assert [picture["file"] for picture in report["pictures"]] == ALL
    assert "3 of 3 pictures in out, 3 made" in done.err
    assert scalekv("report", "out").code == 0


def test_rows_of_equal_settings_run_together(scalekv: Program, stand_in: StandIn) -> None:
    rows = [("a", "10%"), ("b", "20%"), ("c", "10%")]
    Path("p.csv").write_text("prompt,budget\n" + "".join(f"{p},{b}\n" for p, b in rows))
    assert scalekv("batch", "p.csv", "--batch-size", "2").code == 0
    asked = [(r.prompts, r.seeds, r.budget, r.batch_size) for r in stand_in.requests]
    assert asked == [(("a", "c"), (0, 2), "10%", 2), (("b",), (1,), "20%", 2)]


def test_what_generate_can_be_told_batch_can(scalekv: Program, stand_in: StandIn) -> None:
    told = {o.name for o in OPTIONS if "generate" in o.commands}
    assert told - {"record"} <= set(signature(batch).parameters)
    done = scalekv(
        *("batch", "p.txt", "--cfg-layer", "-1", "--text-dtype", "bf16", "--positive-prompt"),
        *("--memory-report", "html", "--negative", "blur", "--seed", "5", "-n", "2"),
    )
    assert done.code == 0, done.err
    request = stand_in.requests[0]
    assert (request.cfg_layer, request.negative, request.positive_prompt) == (-1, "blur", True)
    assert request.seeds == (5, 6, 7, 8, 9, 10)
    assert Path("out/report.html").exists()


def test_stdin_and_json(
    scalekv: Program, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open("p.txt") as file:
        monkeypatch.setattr("sys.stdin", file)
        done = scalekv("batch", "-", "--json", "--quiet", "--out", "here", "--name", "{slug}.png")
    assert (done.code, done.err) == (0, "")
    facts = json.loads(done.out)
    assert facts["paths"] == ["here/an-owl.png", "here/a-fox.png", "here/a-cat.png"]
    assert facts["manifest_path"] == "here/manifest.jsonl"
    assert (facts["failed"], facts["retry_path"]) == ([], None)
    assert facts["report"]["source"] == "stdin"


def test_resume_makes_what_is_missing(scalekv: Program, stand_in: StandIn) -> None:
    assert scalekv("batch", "p.txt", "--limit", "1").code == 0
    again = scalekv("batch", "p.txt")
    assert again.code == 2
    assert "--resume" in again.err
    rest = scalekv("batch", "p.txt", "--resume")
    assert rest.out.splitlines() == [f"out/{name}" for name in ALL[1:]]
    assert "1 of 3 pictures are there" in rest.err
    check_folder()
    loaded = len(stand_in.loaded)
    nothing = scalekv("batch", "p.txt", "--resume")
    assert (nothing.code, nothing.out, len(stand_in.loaded)) == (0, "", loaded)
    Path("out", ALL[1]).unlink()
    assert scalekv("batch", "p.txt", "--resume").out == f"out/{ALL[1]}\n"
    check_folder()
    assert len(manifest()) == 4  # the last line about a file counts


def test_resume_after_the_file_grew(scalekv: Program, stand_in: StandIn) -> None:
    assert scalekv("batch", "p.txt").code == 0
    with open("p.txt", "a") as file:
        file.write("a dog\n")
    assert scalekv("batch", "p.txt", "--resume").out == "out/00003-3-a-dog.png\n"


def test_a_picture_that_somebody_changed_is_left(scalekv: Program, stand_in: StandIn) -> None:
    assert scalekv("batch", "p.txt").code == 0
    Path("out", ALL[0]).write_bytes(b"mine")
    done = scalekv("batch", "p.txt", "--resume")
    assert (done.code, done.out) == (0, "")
    assert f"{ALL[0]} was changed" in done.err
    assert Path("out", ALL[0]).read_bytes() == b"mine"


@pytest.mark.parametrize("resume", [[], ["--resume"]])
def test_nothing_is_overwritten(scalekv: Program, stand_in: StandIn, resume: list[str]) -> None:
    Path("out").mkdir()
    Path("out", ALL[1]).write_bytes(b"mine")
    Path("out", ALL[2]).with_suffix(".json").write_text("{}")
    done = scalekv("batch", "p.txt", *resume)
    assert (done.code, done.out) == (2, "")
    assert "2 names are taken" in done.err
    assert "(line 2)" in done.err
    assert stand_in.loaded == []
    assert sorted(os.listdir("out")) == [ALL[1], "00002-2-a-cat.json"]
    assert Path("out", ALL[1]).read_bytes() == b"mine"


def test_other_settings_in_the_same_folder_are_refused(scalekv: Program, stand_in: StandIn) -> None:
    assert scalekv("batch", "p.txt").code == 0
    done = scalekv("batch", "p.txt", "--resume", "--cfg", "4")
    assert done.code == 2
    assert "3 names are taken by other pictures or other settings" in done.err


def test_parts_share_a_folder(scalekv: Program, stand_in: StandIn) -> None:
    for part in ("1/2", "2/2"):
        assert scalekv("batch", "p.txt", "--shard", part).code == 0
    check_folder()
    assert [e["file"] for e in manifest(name="manifest-1-of-2.jsonl")] == [ALL[0], ALL[2]]
    done = scalekv("batch", "p.txt", "--resume")  # whatever the parts were
    assert (done.code, done.out) == (0, "")
    assert scalekv("batch", "p.txt", "--shard", "5/9").out == ""


def test_dry_run(scalekv: Program, stand_in: StandIn) -> None:
    done = scalekv("batch", "p.txt", "--dry-run")
    assert done.code == 0
    assert done.out.splitlines() == [f"out/{name}" for name in ALL]
    assert not Path("out").exists()
    assert scalekv("batch", "p.txt", "--limit", "1").code == 0
    facts = json.loads(scalekv("batch", "p.txt", "--dry-run", "--resume", "--json").out)
    assert facts == {"paths": [f"out/{name}" for name in ALL[1:]], "there_before": 1}
    assert len(stand_in.loaded) == 1


def test_some_fail_and_the_rest_is_made(scalekv: Program, stand_in: StandIn) -> None:
    stand_in.failing, stand_in.error = ("a fox",), ValueError("boom\nand more")
    done = scalekv("batch", "p.txt", "--budget", "20%")
    assert done.code == 1
    assert done.out.splitlines() == [f"out/{ALL[0]}", f"out/{ALL[2]}"]
    assert "line 2, seed 1, 'a fox': ValueError: boom" in done.err
    assert done.err.splitlines()[-1] == "1 of 3 pictures failed"
    check_folder(files=[ALL[0], ALL[2]])
    report = json.loads(Path("out/report.json").read_text())
    assert report["outcome"] == "failed"
    assert report["failed"][0]["error"] == "ValueError: boom"
    stand_in.error = None
    retried = scalekv("batch", "out/retry.jsonl", "--resume")
    assert (retried.code, retried.out) == (0, f"out/{ALL[1]}\n")
    assert stand_in.requests[-1].budget == "20%"
    check_folder()
    nothing = scalekv("batch", "p.txt", "--resume", "--budget", "20%")
    assert (nothing.code, nothing.out) == (0, "")


def test_one_that_fails_in_a_batch_takes_no_other_with_it(
    scalekv: Program, stand_in: StandIn
) -> None:
    stand_in.failing, stand_in.error = ("a fox",), ValueError("boom")
    done = scalekv("batch", "p.txt", "--no-reproducible", "--batch-size", "3", "--json")
    assert done.code == 1
    facts = json.loads(done.out)
    assert facts["paths"] == [f"out/{ALL[0]}", f"out/{ALL[2]}"]
    assert [failed["prompt"] for failed in facts["failed"]] == ["a fox"]
    asked = [("an owl", "a fox", "a cat"), ("a fox", "a cat"), ("a fox",), ("a cat",)]
    assert [r.prompts for r in stand_in.requests] == asked
    error = json.loads(done.err.splitlines()[-1])["error"]
    assert (error["kind"], error["code"]) == ("pictures-failed", 1)


def test_what_fails_before_the_first_picture_is_a_failed_picture_too(
    scalekv: Program, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(pipeline: Any, settled: Settled, *rest: Any) -> Any:
        if "a fox" in settled.request.prompts:
            raise ValueError("boom")
        return stand_in.generate(pipeline, settled, *rest)

    monkeypatch.setattr(engine, "generate", broken)
    done = scalekv("batch", "p.txt", "--verbose")
    assert done.code == 1
    assert "Traceback" in done.err
    assert pngs() == [ALL[0], ALL[2]]


def test_fail_fast(scalekv: Program, stand_in: StandIn) -> None:
    stand_in.failing, stand_in.error = ("an owl",), ValueError("boom")
    done = scalekv("batch", "p.txt", "--fail-fast")
    assert (done.code, done.out) == (1, "")
    assert stand_in.requests[-1].prompts == ("an owl",)
    rows = Path("out/retry.jsonl").read_text().splitlines()
    assert [json.loads(row)["prompt"] for row in rows] == ["an owl"]


def test_a_smaller_batch_is_said_and_remembered(
    scalekv: Program, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    def little_memory(
        pipeline: Any, settled: Settled, on_progress: Any, on_smaller_batch: Callable[[int], None]
    ) -> Any:
        if settled.together > 2:
            on_smaller_batch(2)
        return stand_in.generate(pipeline, settled, on_progress, on_smaller_batch)

    monkeypatch.setattr(engine, "generate", little_memory)
    Path("p.txt").write_text("an owl\n" * 300)
    done = scalekv("batch", "p.txt", "--no-reproducible", "--batch-size", "8")
    assert done.code == 0
    assert done.err.count("memory ran out: 2 at a time from now on") == 1
    assert [request.batch_size for request in stand_in.requests] == [8, 2]
    assert len(pngs()) == 300


def test_ctrl_c(scalekv: Program, stand_in: StandIn) -> None:
    stand_in.failing, stand_in.error = ("a cat",), KeyboardInterrupt()
    done = scalekv("batch", "p.txt")
    assert done.code == 130
    assert done.out.splitlines() == [f"out/{name}" for name in ALL[:2]]
    assert done.err.splitlines()[-1] == "interrupted; 2 pictures kept in out"
    assert "--resume makes the rest" in done.err
    assert stand_in.closed
    check_folder(files=ALL[:2])
    stand_in.error = None
    assert scalekv("batch", "p.txt", "--resume").code == 0
    check_folder()


def test_ctrl_c_before_the_first(scalekv: Program, stand_in: StandIn) -> None:
    stand_in.fail_at, stand_in.error = 0, KeyboardInterrupt()
    assert scalekv("batch", "p.txt").code == 130
    assert not Path("out").exists()


def test_a_full_disk(scalekv: Program, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    link, names = os.link, []

    def full(source: Any, target: Any) -> None:
        names.append(Path(target).name)
        if len(pngs()) == 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        link(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", full)
        done = scalekv("batch", "p.txt")
    assert done.code == 1
    assert done.out == f"out/{ALL[0]}\n"
    text = "No space left on device; 1 of 3 pictures are there"
    assert text in done.err.splitlines()[-1]
    assert "--resume" in done.err.splitlines()[-1]
    assert "no report" in done.err
    assert not Path("out/report.json").exists()
    check_folder(files=ALL[:1])
    assert scalekv("batch", "p.txt", "--resume").code == 0
    check_folder()


def test_out_of_memory_costs_the_picture_it_happened_to(
    scalekv: Program, stand_in: StandIn
) -> None:
    stand_in.failing, stand_in.error = ("an owl",), MemoryError("no room")
    done = scalekv("batch", "p.txt")
    assert done.code == 1
    assert "'an owl': MemoryError: no room" in done.err
    check_folder(files=ALL[1:])


def test_a_reader_that_leaves_costs_no_picture() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    program = start("batch", "p.txt", "--quiet", pause=0, stdout=writer)
    os.close(writer)
    _, output = program.communicate(timeout=120)
    assert (program.returncode, output) == (0, "")
    check_folder()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_under_stdout_costs_no_picture() -> None:
    with open("/dev/full", "w") as full:
        program = start("batch", "p.txt", "--quiet", pause=0, stdout=full.fileno())
        _, output = program.communicate(timeout=120)
    assert program.returncode == 1
    assert output == "stdout could not be written: No space left on device\n"
    check_folder()


def test_a_name_that_is_taken_meanwhile(
    scalekv: Program, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*arguments: Any) -> Any:
        Path("out", ALL[1]).write_bytes(b"mine")
        return stand_in.load(*arguments)

    monkeypatch.setattr(engine, "load", load)
    done = scalekv("batch", "p.txt")
    assert done.code == 1
    assert "came into the folder meanwhile" in done.err
    assert Path("out", ALL[1]).read_bytes() == b"mine"


def test_what_cannot_fit_is_refused_before_anything_is_made(
    scalekv: Program, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "memory_bytes", lambda: 2**20)
    done = scalekv("batch", "p.txt", "--device", "cpu")
    assert done.code == 2
    assert "--force" in done.err
    assert not Path("out").exists()
    assert scalekv("batch", "p.txt", "--device", "cpu", "--force").code == 0


def test_an_unwritable_folder(scalekv: Program, stand_in: StandIn) -> None:
    Path("out").write_text("a file")
    done = scalekv("batch", "p.txt")
    assert done.code == 2
    assert "--out" in done.err
    assert stand_in.loaded == []


def test_a_failure_to_load_leaves_nothing(
    scalekv: Program, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(engine, "load", broken)
    assert scalekv("batch", "p.txt").code == 1
    assert not Path("out").exists()


def test_truncation_is_said(scalekv: Program, stand_in: StandIn) -> None:
    stand_in.truncated = "the tail"
    assert "line 4 was too long; not used: the tail" in scalekv("batch", "p.txt").err


@pytest.mark.parametrize("options", [["--shard", "0/2"], ["--name", "../x"], ["--start", "-1"]])
def test_options_that_are_refused(scalekv: Program, stand_in: StandIn, options: list[str]) -> None:
    done = scalekv("batch", "p.txt", *options)
    assert done.code == 2
    assert options[0] in done.err
    assert not Path("out").exists()
