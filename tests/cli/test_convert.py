"""`scalekv convert` as a user sees it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from scalekv.cli.console.bytes import ByteDisplay
from tests.cli.conftest import Outcome

Program = Callable[..., Outcome]


def test_a_copy_is_a_model(scalekv: Program) -> None:
    done = scalekv("convert", "emoji")
    assert done.code == 0, done.err
    file = Path(done.out.strip())
    assert file == Path("emoji-bf16/emoji.yaml").absolute()
    assert "to write into" in done.err
    shown = scalekv("models", "show", str(file), "--json")
    assert json.loads(shown.out)["state"] == "local files"
    assert scalekv("models", "default", str(file)).code == 0
    drawn = scalekv("generate", "a red apple")
    assert drawn.code == 0, drawn.err
    assert json.loads(Path("out/0-a-red-apple.json").read_text())["settings"]["dtype"] == "bfloat16"
    again = scalekv("convert", "emoji")
    assert (again.code, again.out) == (2, "")
    assert "nothing is overwritten" in again.err


def test_dry_run_and_json(scalekv: Program) -> None:
    facts = json.loads(scalekv("convert", "emoji", "--dry-run", "--json").out)
    assert facts["bytes"] == sum(facts["parts"].values())
    assert not list(Path().iterdir())
    assert "emoji-bf16" in scalekv("convert", "emoji", "--dry-run").out
    done = scalekv(
        "convert", "emoji", "--json", "--quiet", "--out", "here", "--text-encoder", "bf16"
    )
    assert done.err == ""
    assert Path(json.loads(done.out)["path"]) == Path("here/emoji.yaml").absolute()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["emojo"], ["no model named 'emojo'", "did you mean emoji"]),
        (["emoji", "--dtype", "bf17"], ["bf17", "--dtype"]),
        (["emoji", "--shard-size", "much"], ["'much'", "--shard-size 2GB"]),
        (["emoji", "--shard-size", "1KB"], ["1000 bytes", "at least 1MB"]),
        (["emoji", "--out", ""], ["no name", "--out"]),
        (["infinity-2b"], ["scalekv download infinity-2b"]),
        (["infinity-20b"], ["no weights", "--weights-dir"]),
    ],
)
def test_refusals(scalekv: Program, arguments: list[str], words: list[str]) -> None:
    done = scalekv("convert", *arguments)
    assert (done.code, done.out) == (2, "")
    for word in words:
        assert word in done.err
    assert not list(Path().iterdir())


def test_ctrl_c_leaves_nothing(scalekv: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    def press(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ByteDisplay, "show", press)
    done = scalekv("convert", "emoji")
    assert done.code == 130
    assert "nothing is left" in done.err
    assert not list(Path().iterdir())
