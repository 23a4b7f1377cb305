"""`scalekv eval export` and `scalekv eval import`, on the built-in model itself."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from PIL import Image

from scalekv.cli.main import main
from scalekv.infinity_patch.files.hub import BUILT_IN
from tests.cli.conftest import Outcome
from tests.infinity_patch.benchmarks.made import (
    DPG,
    DPG_RESULTS,
    GENEVAL,
    GENEVAL_RESULTS,
    HPS_RESULTS,
)

needs_weights = pytest.mark.skipif(
    not (BUILT_IN / "emoji" / "transformer.safetensors").exists(),
    reason="the built-in model's weights are not here",
)


def ask(*words: str) -> Outcome:
    """The program, in this process."""
    with redirect_stdout(io.StringIO()) as told, redirect_stderr(io.StringIO()) as said:
        code = main(["eval", *words])
    return Outcome(code, told.getvalue(), said.getvalue())


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with lists and results in it."""
    monkeypatch.chdir(tmp_path)
    for name, text in {
        "m.jsonl": GENEVAL,
        "d.csv": DPG,
        "results.jsonl": GENEVAL_RESULTS,
        "dpg.txt": DPG_RESULTS,
        "hps.txt": HPS_RESULTS,
    }.items():
        (tmp_path / name).write_text(text)
    return tmp_path


@needs_weights
def test_from_prompts_to_scores(files: Path) -> None:
    drawn = ask("export", "dpg", "--prompts", "d.csv", "--limit", "1", "--policy", "hack")
    assert drawn.code == 0, drawn.err
    assert drawn.out == "eval/dpg/hack-10pct\n"
    assert (
        "compute_dpg_bench.py --image-root-path eval/dpg/hack-10pct --resolution 128" in drawn.err
    )
    with Image.open("eval/dpg/hack-10pct/partiprompts1.png") as sheet:
        assert sheet.size == (256, 256)
        quarters = [
            sheet.crop((x, y, x + 128, y + 128)).tobytes() for x in (0, 128) for y in (0, 128)
        ]
    assert len(set(quarters)) == 4
    again = ask("export", "dpg", "--prompts", "d.csv", "--limit", "1", "--policy", "hack", "--json")
    assert json.loads(again.out)["missing"] == 0
    other = ask("export", "dpg", "--prompts", "d.csv", "--limit", "1", "--seed", "1")
    assert other.code == 2
    assert "another seed" in other.err
    scored = ask("import", "dpg", "dpg.txt", "--policy", "hack")
    assert scored.code == 0, scored.err
    assert "DPG-Bench 62.5 of 8 pictures: entity 81.5" in scored.err
    assert "hack" in scored.out
    assert "62.5" in scored.out
    assert " KiB" in scored.out  # what the variant held while it was drawn
    drawn_in = json.loads(Path("eval/export-dpg.jsonl").read_text().splitlines()[0])["settings"]
    dtype = drawn_in["dtype"]
    assert f"dpg: {dtype}, weights in {dtype}, text encoder in fp32" in scored.out
    (row,) = json.loads(ask("import", "dpg", "dpg.txt", "--policy", "hack", "--json").out)["scores"]
    assert (row["weights_dtype"], row["text_dtype"]) == (dtype, "fp32")
    for words, name in ((("--weights", "int8"), "weights"), (("--text-dtype", "int8"), "text")):
        other = ask("export", "dpg", "--prompts", "d.csv", "--limit", "1", *words)
        assert other.code == 2
        assert f"another {name}_dtype" in other.err
    compared = {"settings": drawn_in | {"weights_dtype": "int8"}}
    Path("eval/pictures.jsonl").write_text(json.dumps(compared) + "\n")
    mixed = ask("import", "dpg", "dpg.txt", "--policy", "hack")
    assert mixed.code == 2
    assert f"another weights_dtype than those of the evaluation: {dtype}, not int8" in " ".join(
        mixed.err.split()
    )


def test_scores_of_several_benchmarks_are_one_table(files: Path) -> None:
    assert ask("import", "geneval", "results.jsonl", "--policy", "full").code == 0
    assert ask("import", "hps", "hps.txt", "--policy", "scalekv", "--budget", "10%").code == 0
    assert ask("import", "geneval", "results.jsonl", "--policy", "full").code == 0
    rewritten = ask("import", "geneval", "results.jsonl", "--policy", "full", "--rewritten")
    heading, *rows = [line.split() for line in rewritten.out.splitlines() if line.strip()]
    assert "GenEval" in heading
    assert "HPSv2.1" in heading
    assert [row[0] for row in rows if row[0] in ("full", "scalekv")] == ["full", "scalekv"]
    found = json.loads(ask("import", "hps", "hps.txt", "--policy", "full", "--json").out)["scores"]
    assert [(row["policy"], row["score"]) for row in found] == [
        *(("full", "GenEval"), ("scalekv", "HPSv2.1")),
        *(("full", "GenEval (rewritten)"), ("full", "HPSv2.1")),
    ]
    changed = GENEVAL_RESULTS.replace("false", "true")
    (files / "results.jsonl").write_text(changed)
    refused = ask("import", "geneval", "results.jsonl", "--policy", "full")
    assert refused.code == 2
    assert "there already: 0.75, now 1" in refused.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["export", "geneva"], "did you mean geneval?"),
        (["export", "geneval", "--prompts", "d.csv"], "not the list of prompts"),
        (["export", "geneval", "--prompts", "none.jsonl"], "cannot read the prompts"),
        (["export", "hps", "--rewritten", "on"], "no rewritten prompts of HPSv2.1"),
        (
            ["export", "geneval", "--rewritten", "m.jsonl", "--prompts", "m.jsonl"],
            "--rewritten FILE",
        ),
        (["export", "dpg", "--prompts", "d.csv", "--policy", "hack:none.json"], "cannot be read"),
        (["import", "hps", "dpg.txt", "--policy", "full"], "what hpsv2.evaluate prints"),
        (["import", "hps", "hps.txt", "--policy", "fulll"], "no policy named"),
        (["import", "hps", "hps.txt"], "--policy"),
    ],
)
def test_what_is_refused_is_refused_before_anything_is_drawn(
    files: Path, words: list[str], said: str
) -> None:
    outcome = ask(*words)
    assert outcome.code == 2
    assert said in outcome.err
    assert not (files / "eval" / "scores.jsonl").exists()
