"""A batch encodes the texts of a stretch before it draws, whatever their settings."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scalekv.cli import engine
from scalekv.cli.batch import drawing
from scalekv.infinity_patch.model.text import TextEncoder
from scalekv.infinity_patch.pieces import REMEMBERED
from tests.cli.conftest import Outcome, StandIn

Program = Callable[..., Outcome]
ROWS = (
    {"prompt": "an owl", "cfg": 2},
    {"prompt": "a fox"},
    {"prompt": "a cat", "cfg": 2, "negative": "a dog"},
    {"prompt": "a fox", "cfg": 2},
)


@pytest.fixture(autouse=True)
def rows() -> None:
    Path("p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))


def test_the_texts_of_all_settings_are_encoded_at_once(
    scalekv: Program, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert scalekv("batch", "p.jsonl").code == 0
    assert stand_in.encoded == [["an owl", "a fox", "a cat", "a dog"]]
    monkeypatch.setattr(drawing, "STRETCH", 3)
    assert scalekv("batch", "p.jsonl", "--out", "again").code == 0
    assert stand_in.encoded[1:] == [["an owl", "a fox"], ["a cat", "a dog"]]
    assert sum(len(request.prompts) for request in stand_in.requests) == 2 * len(ROWS)


def test_a_stretch_has_no_more_texts_than_are_remembered() -> None:
    assert 2 * drawing.STRETCH <= REMEMBERED  # each with what it is to keep away from


def test_an_encoder_that_fails_costs_the_pictures_of_its_stretch(
    scalekv: Program, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(_: object, texts: list[str]) -> None:
        if "an owl" in texts:
            raise MemoryError

    monkeypatch.setattr(drawing, "STRETCH", 2)
    monkeypatch.setattr(engine, "encode", failing)
    done = scalekv("batch", "p.jsonl")
    assert done.code == 1
    assert len(done.out.splitlines()) == 2
    assert "2 of 4" in done.err


def test_the_encoder_is_read_once_and_let_go(
    scalekv: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Any] = []
    load = TextEncoder.load

    def told(text: TextEncoder) -> Any:
        if text.model is None:
            read.append(text)
        return load(text)

    monkeypatch.setattr(TextEncoder, "load", told)
    done = scalekv("batch", "p.jsonl", "--device", "cpu")
    assert done.code == 0, done.err
    assert len(read) == 1
    parts = json.loads(Path("out", "report.json").read_text())["stages"]
    assert parts["encode"]["parts"]["text_encoder"] > 0
    assert parts["scales"]["parts"]["text_encoder"] == 0
