"""The fidelity script from its command line: what it measures, refuses and goes on with."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from scalekv.infinity_patch import Request, load
from scalekv.infinity_patch.model.sampling import BitSampler
from scripts.evaluate.fidelity import main
from scripts.evaluate.pictures import CacheVariant, draw, variants

pytest.importorskip("efficientnet_lite_pytorch")
pytest.importorskip("matplotlib")


def rows_in(out: Path) -> list[dict[str, Any]]:
    lines = (out / "pictures.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines[1:]]


def ask(out: Path, *more: str, limit: int = 2) -> int:
    return main(["--out", str(out), "--limit", str(limit), *more])


def test_full_is_itself_and_less_is_not(tmp_path: Path) -> None:
    assert ask(tmp_path, "--policies", "full", "scalekv", "--budgets", "10%") == 0
    by_policy = {(row["policy"], row["number"]): row for row in rows_in(tmp_path)}
    assert len(by_policy) == 4
    full, less = by_policy["full", 1], by_policy["scalekv", 1]
    assert full["psnr"] is None
    assert full["ssim"] == pytest.approx(1)
    assert full["features"] == pytest.approx(0, abs=1e-5)
    assert set(full["bits"]) == {1.0}
    assert 10 < less["psnr"] < 60
    assert less["features"] > 0.01
    assert less["bits"][0] == 1.0 > less["bits"][-1] > 0.5
    assert less["held_peak_bytes"] < full["held_peak_bytes"]
    table = (tmp_path / "table.md").read_text(encoding="utf-8")
    assert "| full | full | auto | 2 | equal | 1.0000 | 0.0000 | 1.000 | 2 |" in table
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_a_second_call_makes_only_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ask(tmp_path, "--budgets", "20%", limit=1) == 0
    first = (tmp_path / "pictures.jsonl").read_bytes()
    table = (tmp_path / "table.md").read_bytes()
    assert ask(tmp_path, "--budgets", "20%", limit=2) == 0
    assert (tmp_path / "pictures.jsonl").read_bytes().startswith(first)
    assert [row["number"] for row in rows_in(tmp_path)] == [0, 1]
    assert (tmp_path / "table.md").read_bytes() != table

    def never(*args: object) -> None:
        raise AssertionError("drew a picture that is there already")

    monkeypatch.setattr("scripts.evaluate.fidelity.draw", never)
    assert ask(tmp_path, "--budgets", "20%", limit=2) == 0
    assert main(["--out", str(tmp_path), "--report-only"]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--budgets", "0%"], "0%"),
        (["--kv-dtypes", "int7"], "int7"),
        (["--limit", "0"], "at least 1"),
        (["--fid", "--limit", "1"], "clean-fid" if find_spec("cleanfid") is None else "--pictures"),
        (["--model", "emojy"], "emojy"),
        (["--prompts", "nowhere.txt"], "nowhere.txt"),
        (["--report-only"], "no measurements there"),
    ],
)
def test_refusals(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["--out", str(tmp_path), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_other_seeds_are_not_mixed_in(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(tmp_path, limit=1) == 0
    assert ask(tmp_path, "--seed", "5", limit=1) == 2
    assert "another seed: 0, now 5" in capsys.readouterr().err


def test_a_policy_may_name_the_file_it_works_from() -> None:
    variant = CacheVariant("coded:a/c.safetensors", "b/own.yaml")
    assert variant.folder == "coded-own.yaml"
    with pytest.raises(SystemExit):
        main(["--policies", "coder:c.safetensors"])


def test_the_full_cache_knows_no_budget() -> None:
    assert variants(["full", "scalekv"], ["20%", "10%"]) == [
        CacheVariant("full", "full"),
        CacheVariant("scalekv", "20%"),
        CacheVariant("scalekv", "10%"),
    ]
    crossed = variants(["full", "h2o"], ["20%"], ["int8", "auto"])
    assert [v.folder for v in crossed] == ["full-full-int8", "full", "h2o-20-int8", "h2o-20"]


def test_the_bits_are_those_the_picture_is_made_of() -> None:
    pipeline = load("emoji")
    before = BitSampler.__call__
    drawn = draw(pipeline, Request(("a red apple",), policy="full"))
    assert BitSampler.__call__ is before
    assert [len(bits) for bits in drawn.bits] == [1, 4, 16, 36, 64, 144, 256]
    again = draw(pipeline, Request(("a red apple",), policy="full"))
    assert all(torch.equal(a, b) for a, b in zip(drawn.bits, again.bits, strict=True))
    other = draw(pipeline, Request(("a red apple",), policy="full", seed=1))
    assert not torch.equal(drawn.bits[-1], other.bits[-1])
