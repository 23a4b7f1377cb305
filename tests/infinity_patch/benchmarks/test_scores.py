"""The scorers' files, in their forms, and what is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from scalekv.infinity_patch.benchmarks.scores import read_score
from scalekv.kv.errors import UserError
from tests.infinity_patch.benchmarks.made import (
    DPG_RESULTS,
    GENEVAL_RESULTS,
    HPS_RESULTS,
    REWARDS,
)

FORMS = {
    "geneval": (GENEVAL_RESULTS, 0.75, 4, {"single_object": 1.0, "counting": 0.5}),
    "dpg": (DPG_RESULTS, 62.5, 8, {"entity": 81.5, "attribute": 70.25}),
    "hps": (
        HPS_RESULTS,
        29.9,
        0,
        {"anime": 31.2, "concept-art": 30.0, "paintings": 30.3, "photo": 28.1},
    ),
    "imagereward": (REWARDS, 0.25, 4, {}),
}


@pytest.mark.parametrize("benchmark", list(FORMS))
def test_forms(benchmark: str, tmp_path: Path) -> None:
    text, value, pictures, parts = FORMS[benchmark]
    (tmp_path / "results").write_text(text)
    found = read_score(benchmark, tmp_path / "results")
    assert found.value == pytest.approx(value)
    assert found.pictures == pictures
    assert dict(found.parts) == pytest.approx(parts)


def test_the_average_that_is_printed_counts(tmp_path: Path) -> None:
    (tmp_path / "results").write_text(HPS_RESULTS + "scalekv-10pct Average         29.87 \t\n")
    assert read_score("hps", tmp_path / "results").value == 29.87


@pytest.mark.parametrize(
    ("benchmark", "text", "said"),
    [
        ("geneval", "", "no picture in it"),
        ("geneval", '{"tag": "x"}\n', "correct"),
        ("geneval", '{"tag": "x", "correct": 0.5}\n', "neither right nor wrong"),
        ("dpg", "nothing", "0 lines"),
        ("dpg", DPG_RESULTS.replace("62.5", "63.5"), "not the mean"),
        ("dpg", DPG_RESULTS + DPG_RESULTS, "2 lines"),
        ("hps", HPS_RESULTS.replace("photo", "photos"), "no score of photo"),
        ("hps", HPS_RESULTS + HPS_RESULTS, "several models"),
        ("imagereward", "[]", "no list"),
        ("imagereward", '[{"rewards": ["a"]}]', "no rewards"),
        ("imagereward", '[{"rewards": [NaN]}]', "not finite"),
    ],
)
def test_what_is_no_result_is_refused(benchmark: str, text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "results").write_text(text)
    with pytest.raises(UserError) as caught:
        read_score(benchmark, tmp_path / "results")
    assert said in str(caught.value)
    assert caught.value.rule


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read the scores"):
        read_score("hps", tmp_path / "none")
