"""`scalekv report`: a run's report again, from its JSON, of a killed run, from sidecars alone."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import typer

from scalekv.cli import engine
from tests.cli.conftest import Outcome, StandIn

Program = Callable[..., Outcome]

SCHEMA = json.loads(
    files("scalekv.cli.report")
    .joinpath("schemas", "report-1.schema.json")
    .read_text(encoding="utf-8")
)
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def report(path: str = "out/report.json") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(path).read_text())
    VALIDATOR.validate(found)
    return found


def test_the_schema_is_one_and_refuses_what_is_wrong(scalekv: Program, stand_in: StandIn) -> None:
    VALIDATOR.check_schema(SCHEMA)
    assert scalekv("generate", "a").code == 0
    fine = report()
    for key, value in (
        ("format", 2),
        ("outcome", "fine"),
        ("full_caches", []),
        ("weights_bytes", {"all": 0.5}),
        ("cache", {"policy": "full"}),
    ):
        assert not VALIDATOR.is_valid({**fine, key: value}), key
    for key in SCHEMA["required"]:
        assert not VALIDATOR.is_valid({name: fine[name] for name in fine if name != key}), key
    # which a CPU has none of, a cluster alone, and a run with such a cache
    known = SCHEMA["properties"].keys() - {"graphs", "workers", "text_cache"}
    assert fine.keys() == known, "every key is described, every described key is written"


def test_real_runs_keep_to_the_schema_and_find_each_other(scalekv: Program) -> None:
    for policy in ("scalekv", "full"):
        done = scalekv("generate", "a red apple", "--policy", policy, "--text-cache", "texts")
        assert done.code == 0
    for name, was_there in (("report.json", 0), ("report-2.json", 1)):
        found = report(f"out/{name}")
        assert found["text_cache"] == {"found": was_there, "made": 1 - was_there}
        assert (found["weights_bytes"]["text_encoder"] == 0) is bool(was_there)
        assert list(found["stages"]) == ["load", "encode", "scales", "decode"]
        rows = found["cache"]["scales"]
        described = SCHEMA["$defs"]["cache"]["properties"]
        assert found["cache"].keys() == described.keys() - {"coded", "stop_after"}  # not of all
        assert rows[-1].keys() == described["scales"]["items"]["properties"].keys()
        assert found["cache"]["shape"].keys() == set(described["shape"]["required"])
    assert scalekv("report", "out/report.json").code == 0
    assert len(re.findall("<img ", Path("out/report.html").read_text())) == 2
    assert scalekv("report", "out").code == 0
    assert len(re.findall("<img ", Path("out/report-2.html").read_text())) == 1


def test_the_page_says_where_scales_are_left_out(scalekv: Program) -> None:
    words = ("generate", "a red apple", "--policy", "full", "--stop-after", "4")
    assert scalekv(*words, "--memory-report", "json,html").code == 0
    assert report()["cache"]["stop_after"] == len(report()["cache"]["scales"]) == 4
    assert "full up to scale 4" in Path("out/report.html").read_text()


def test_the_page_is_rebuilt_from_json(scalekv: Program, stand_in: StandIn) -> None:
    assert scalekv("generate", "an owl", "--memory-report", "json,html").code == 0
    first = Path("out/report.html").read_text()
    Path("out/report.html").unlink()
    done = scalekv("report", "out")
    assert (done.code, done.out) == (0, "out/report.html\n")
    assert "cache held, peak" in done.err
    assert Path("out/report.html").read_text() == first
    assert report()["sparsity"]["meaning"] in first
    assert scalekv("report", "out/report.json", "--quiet").err == ""


def test_the_last_run_in_a_shared_folder_is_meant(scalekv: Program, stand_in: StandIn) -> None:
    for prompt in ("an owl", "a fox"):
        assert scalekv("generate", prompt).code == 0
    assert scalekv("report", "out").out == "out/report-2.html\n"
    assert "a fox" in Path("out/report-2.html").read_text()
    assert scalekv("report", "out/report.json").out == "out/report.html\n"
    assert "an owl" in Path("out/report.html").read_text()


def test_forms_of_the_report(scalekv: Program, stand_in: StandIn) -> None:
    done = scalekv("generate", "a", "--memory-report", "html", "--json")
    assert sorted(p.name for p in Path("out").iterdir()) == ["0-a.json", "0-a.png", "report.html"]
    assert json.loads(done.out)["report_path"] == "out/report.html"
    assert "cache transient" not in done.err
    done = scalekv("generate", "a", "--memory-report", "table", "--out", "other")
    assert sorted(p.name for p in Path("other").iterdir()) == ["0-a.json", "0-a.png"]
    assert "cache transient" in done.err
    done = scalekv("generate", "a", "--memory-report", "none", "--out", "bare")
    assert sorted(p.name for p in Path("bare").iterdir()) == ["0-a.json", "0-a.png"]
    assert "held" not in done.err
    done = scalekv("generate", "a", "--out", "plain")
    assert [line.split()[0] for line in done.err.splitlines()[-4:]] == ["held", "of", "or", "peak"]
    assert done.err.endswith("more in plain/report.json\n")
    for wrong in ("html,tabel", "json,none"):
        refused = scalekv("generate", "a", "--memory-report", wrong)
        assert refused.code == 2
        assert "table; or none alone" in refused.err


def test_of_a_run_that_was_killed_there_is_what_it_had(
    scalekv: Program, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[str] = []

    def watched(*given: Any) -> Any:
        for picture in stand_in.generate(*given):
            yield picture
            kept.append(Path("out/report.json").read_text())

    monkeypatch.setattr(engine, "generate", watched)
    assert scalekv("generate", "a", "b", "c").code == 0
    Path("out/report.json").write_text(kept[1])  # as it was after the second picture
    found = report()
    assert found["outcome"] == "running"
    assert (len(found["pictures"]), found["pictures_wanted"]) == (2, 3)
    assert scalekv("report", "out").code == 0
    page = Path("out/report.html").read_text()
    assert "was killed" in page
    assert "2 of 3 pictures are there" in page


def test_without_a_report_the_sidecars_are_read(scalekv: Program, stand_in: StandIn) -> None:
    assert scalekv("generate", "an owl", "a fox").code == 0
    Path("out/report.json").unlink()
    done = scalekv("report", "out", "--json")
    found = json.loads(done.out)
    VALIDATOR.validate(found)
    assert found["outcome"] == "unknown"
    assert {p["prompt"] for p in found["pictures"]} == {"an owl", "a fox"}
    assert found["cache"]["held_peak_bytes"] > 0
    assert scalekv("report", "out").code == 0
    page = Path("out/report.html").read_text()
    assert "left no report" in page
    assert 'id="layers"' not in page


@pytest.mark.parametrize("form", ["jpg", "webp"])
def test_pictures_of_other_formats_are_shown(
    scalekv: Program, stand_in: StandIn, form: str
) -> None:
    scalekv("generate", "an owl", "--format", form, "--memory-report", "table")
    assert scalekv("report", "out").code == 0
    page = Path("out/report.html").read_text(encoding="utf-8")
    assert f"data:image/{form.replace('jpg', 'jpeg')};base64," in page


def test_what_cannot_be_reported_is_refused(scalekv: Program, stand_in: StandIn) -> None:
    for place, word in (("nowhere", "no folder nowhere"), (".", "no report and no picture")):
        refused = scalekv("report", place)
        assert refused.code == 2
        assert word in refused.err
    Path("report.json").write_text("{")
    assert "not readable as JSON" in scalekv("report", ".").err
    Path("report.json").write_text('{"format": 7}')
    assert "format 7" in scalekv("report", ".").err
    Path("report.json").write_text("[]")
    assert "no report of scalekv" in scalekv("report", ".").err
    assert scalekv("generate", "a").code == 0
    assert "no folder nowhere" in scalekv("report", "out", "--full-from", "nowhere").err


def test_a_picture_that_is_gone_is_named(scalekv: Program, stand_in: StandIn) -> None:
    assert scalekv("generate", "an owl").code == 0
    Path("out/0-an-owl.png").unlink()
    assert scalekv("report", "out").code == 0
    assert "0-an-owl.png is no longer there" in Path("out/report.html").read_text()


def test_prompts_are_text_in_the_page(scalekv: Program, stand_in: StandIn) -> None:
    assert scalekv("generate", "<script>alert(1)</script>", "--memory-report", "html").code == 0
    page = Path("out/report.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_twins_are_pictures_of_the_same_settings(scalekv: Program, stand_in: StandIn) -> None:
    assert scalekv("generate", "an owl", "a fox").code == 0
    assert scalekv("generate", "an owl", "--policy", "full", "--out", "reference").code == 0
    assert scalekv("report", "out", "-q").code == 0
    assert len(re.findall("<img ", Path("out/report.html").read_text())) == 2
    assert scalekv("report", "out", "-q", "--full-from", "reference").code == 0
    assert len(re.findall("<img ", Path("out/report.html").read_text())) == 3


def test_open(scalekv: Program, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr(typer, "launch", opened.append)
    assert scalekv("generate", "a").code == 0
    assert scalekv("report", "out", "--open").code == 0
    assert opened == [Path("out/report.html").resolve().as_uri()]
