"""Reports of runs whose pictures differ, that were resumed, shared or killed; room and tokens."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scalekv.cli import engine
from scalekv.cli.pictures.folder import OutputFolder
from scalekv.cli.pictures.writing import FORMAT
from scalekv.cli.report import running
from scalekv.cli.report.figures import table_rows
from scalekv.cli.report.page import render
from scalekv.cli.report.sidecars import pictures_in, twins
from tests.cli.conftest import Outcome, StandIn

Program = Callable[..., Outcome]
PROMPTS = [f"an owl number {number}" for number in range(10)]


def rows(policies: dict[int, str] | None = None) -> None:
    listed = [{"prompt": p, "policy": (policies or {}).get(n)} for n, p in enumerate(PROMPTS)]
    lines = [json.dumps({k: v for k, v in row.items() if v}) + "\n" for row in listed]
    Path("p.jsonl").write_text("".join(lines))


def report(place: str = "out", scalekv: Program | None = None) -> dict[str, Any]:
    if scalekv is None:
        found: dict[str, Any] = json.loads(Path(place, "report.json").read_text())
        return found
    told: dict[str, Any] = json.loads(scalekv("report", place, "--json").out)
    return told


def page(scalekv: Program, place: str = "out") -> str:
    return Path(scalekv("report", place, "--quiet").out.strip()).read_text()


def test_one_full_row_among_ten_is_told_from_the_others(
    scalekv: Program, stand_in: StandIn
) -> None:
    rows({3: "full"})
    assert scalekv("batch", "p.jsonl").code == 0
    found = report()
    kinds = [(k["policy"], k["budget"], k["pictures"]) for k in found["kinds"]]
    assert kinds == [("scalekv", "10%", 9), ("full", "full", 1)]
    assert found["cache"]["policy"] == "scalekv"
    assert "emoji: scalekv, budget 10% (9 pictures); full (1 picture)" in page(scalekv)
    labels = [(label, remark) for label, _, remark in table_rows(found)]
    assert ("  others, peak", "policy full, budget full (1 picture)") in labels


def test_a_resumed_batch_is_reported_whole(scalekv: Program, stand_in: StandIn) -> None:
    rows()
    stand_in.failing, stand_in.error = (PROMPTS[4],), ValueError("boom")
    assert scalekv("batch", "p.jsonl").code == 1
    stand_in.failing = ()
    assert scalekv("batch", "p.jsonl", "--resume").code == 0
    alone = json.loads(Path("out/report-2.json").read_text())
    assert (len(alone["pictures"]), alone["pictures_there_before"]) == (1, 9)
    found = report(scalekv=scalekv)
    assert (found["outcome"], len(found["pictures"]), found["failed"]) == ("complete", 10, [])
    assert found["kinds"][0]["pictures"] == 10
    assert found["seconds"]["load"] >= alone["seconds"]["load"]
    assert "All pictures were drawn.<" in page(scalekv)
    facts = page(scalekv, "out/report-2.json")
    assert "All pictures were drawn. 9 of them were there before this run.<" in facts
    assert "1 of 10 pictures" not in facts


def test_shards_are_reported_together(scalekv: Program, stand_in: StandIn) -> None:
    rows()
    assert scalekv("batch", "p.jsonl", "--shard", "1/2").code == 0
    one = report(scalekv=scalekv)
    assert (one["outcome"], len(one["pictures"])) == ("complete", 5)
    assert scalekv("batch", "p.jsonl", "--shard", "2/2").code == 0
    both = report(scalekv=scalekv)
    assert (both["outcome"], len(both["pictures"]), both["pictures_wanted"]) == ("complete", 10, 10)
    assert scalekv("report", "out").code == 0


def test_a_killed_batch_has_a_report(
    scalekv: Program, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[dict[str, Any]] = []

    def watched(*given: Any) -> Any:
        for number, picture in enumerate(stand_in.generate(*given)):
            if number == 4:
                kept.append(report())
                shutil.copytree("out", "killed")
            yield picture

    monkeypatch.setattr(engine, "generate", watched)
    rows()
    assert scalekv("batch", "p.jsonl").code == 0
    assert [(r["outcome"], len(r["pictures"])) for r in kept] == [("running", 4)]
    output = page(scalekv, "killed")
    assert "was killed. 4 of 10 pictures are there." in output


def test_many_pictures_cost_a_report_now_and_then(
    scalekv: Program, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "ALWAYS", 3)
    monkeypatch.setattr(running, "SHARE", 1e6)
    written: list[int] = []
    save = OutputFolder.save_report

    def counted(self: Any, figures: Any) -> Path:
        written.append(len(figures["pictures"]))
        return save(self, figures)

    monkeypatch.setattr(OutputFolder, "save_report", counted)
    rows()
    assert scalekv("batch", "p.jsonl").code == 0
    assert written == [1, 2, 3, 10]


def test_room_is_not_called_held(scalekv: Program) -> None:
    assert scalekv("generate", "a red apple", "--budget", "20%").code == 0
    found = report()
    for row in found["cache"]["scales"]:
        full = found["cache"]["shape"]["layers"] * _of_one(found) * row["history_tokens"]
        assert row["tokens_bytes"] <= min(row["held_bytes"], full)
        assert row["tokens_bytes"] == sum(row["layers"]["tokens_bytes"])
    early = found["cache"]["scales"][1]
    assert early["tokens_bytes"] == 8 * _of_one(found)  # 8 layers keep the one token there is
    assert early["held_bytes"] > early["tokens_bytes"]
    text = render(found, Path("out"))
    assert '<th scope="col">room</th>' in text
    shares = [part.split("%")[0] for part in text.split("<td>")[1:] if "%" in part[:8]]
    assert max(map(float, shares)) <= 100


def _of_one(found: dict[str, Any]) -> int:
    shape = found["cache"]["shape"]
    size = shape["k_bytes"] + shape["v_bytes"]
    return int(shape["sequences"] * shape["heads"] * shape["head_dim"] * size)


def test_where_nothing_is_dropped_the_page_says_so(scalekv: Program) -> None:
    assert scalekv("generate", "a red apple", "--policy", "full").code == 0
    output = page(scalekv)
    assert "nothing was dropped" in output
    assert "no scale on" not in output
    assert "recorded" not in output


FULL_PICTURE = {"policy": "full", "budget": "full", "kv_dtype": "fp32", "batch": 1}
OTHERWISE = {"positive_prompt": True, "weights": {"vae": "x"}, "pixels": "1M", "comes_later": 1}


@pytest.mark.parametrize("name", OTHERWISE)
def test_twins_differ_in_what_is_kept_alone(tmp_path: Path, name: str) -> None:
    same = {"prompt": "an owl", "seed": 0, "positive_prompt": False, "weights": {"vae": "y"}}
    pictures = {
        "compressed": {**same, "policy": "scalekv", "budget": "10%", "batch": 4},
        "other": {**same, **FULL_PICTURE, name: OTHERWISE[name]},
    }
    for stem, settings in pictures.items():
        (tmp_path / f"{stem}.png").touch()
        sidecar = {"format": FORMAT, "settings": settings, "cache": {}, "seconds": 1}
        (tmp_path / f"{stem}.json").write_text(json.dumps(sidecar))
    (one,) = (drawn for drawn in pictures_in(tmp_path) if not drawn.full)
    assert not twins([one], [tmp_path])
    sidecar = {"format": FORMAT, "settings": {**same, **FULL_PICTURE}, "cache": {}, "seconds": 1}
    (tmp_path / "twin.png").touch()
    (tmp_path / "twin.json").write_text(json.dumps(sidecar))
    assert twins([one], [tmp_path])[one.path].path.stem == "twin"


def test_the_page_goes_where_it_is_wanted(scalekv: Program, stand_in: StandIn) -> None:
    assert scalekv("generate", "an owl").code == 0
    done = scalekv("report", "out", "--out", "pages/owl.html", "-q")
    assert (done.code, done.out) == (0, "pages/owl.html\n")
    assert 'href="../out/0-an-owl.png"' in Path("pages/owl.html").read_text()
    assert not Path("out/report.html").exists()
    refused = scalekv("report", "out", "--out", "pages")
    assert (refused.code, "--out pages/report.html" in refused.err) == (2, True)
