"""Lists of prompts: those that ship, and how others are read and refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from scalekv.configs.models import list_models
from scalekv.configs.prompts import FOLDER, calibration_prompts, read_prompts
from scalekv.kv.errors import UserError
from scripts.builtin.captions import load_heldout
from scripts.contact_sheet import PROMPTS


@pytest.mark.parametrize("model", list_models())
def test_every_model_has_a_list(model: str) -> None:
    path = calibration_prompts(model)
    assert path.stem == ("emoji" if model == "emoji" else "neutral")
    prompts = read_prompts(path)
    assert 10 <= len(prompts) == len(set(prompts)) <= 32


def test_nothing_held_out_and_nothing_shown_is_calibrated_on() -> None:
    held_out = load_heldout()
    styles = {concept for concept, _ in held_out.styles}
    for prompt in read_prompts(FOLDER / "emoji.txt"):
        name = prompt.split(",")[0].removeprefix("a ").removeprefix("an ")
        assert name not in held_out.concepts | styles
        assert prompt not in PROMPTS


def test_lines_that_are_no_prompts(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes(b"\xef\xbb\xbf# a comment\r\n\r\n  an owl \r\n\t\r\n#x\r\na fox #1\r\n")
    assert read_prompts(path) == ("an owl", "a fox #1")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, ["there is no file", "check the path"]),
        (b"", ["no prompt in", "one prompt a line"]),
        (b"# only\n\n", ["no prompt in"]),
        (b"caf\xe9\n", ["not UTF-8"]),
    ],
)
def test_refusals(content: bytes | None, words: list[str], tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as refused:
        read_prompts(path)
    assert refused.value.where == "--prompts"
    for word in words:
        assert word in str(refused.value)


def test_a_folder_is_no_list(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read"):
        read_prompts(tmp_path)
