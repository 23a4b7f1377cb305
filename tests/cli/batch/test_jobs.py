"""Rows to pictures: seeds, names, overrides, parts, and the mark that tells pictures apart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from scalekv.cli.batch.file import read_prompts
from scalekv.cli.batch.jobs import Job, as_row, groups, jobs_of, selected
from scalekv.cli.choices import Options, choose
from scalekv.cli.options import shard_of
from scalekv.cli.pictures.names import BATCH_TEMPLATE, NameTemplate
from scalekv.infinity_patch.asked import check as check_module
from scalekv.infinity_patch.files.hub import model_files
from scalekv.kv.errors import UserError

pytestmark = pytest.mark.usefixtures("stand_in")


def jobs(rows: list[dict[str, Any]], template: str = BATCH_TEMPLATE, **options: Any) -> list[Job]:
    Path("p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    choices = choose(Options((), options), {})
    return jobs_of(read_prompts("p.jsonl"), choices, NameTemplate(template), "cpu")


THREE: list[dict[str, Any]] = [
    {"prompt": "a"},
    {"prompt": "b", "seed": 50, "num_images": 2},
    {"prompt": "c"},
]


def test_seeds_are_the_base_plus_the_index_of_the_picture() -> None:
    result = jobs(THREE, seed=100)
    assert [(job.index, job.prompt, job.seed) for job in result] == [
        (0, "a", 100),
        (1, "b", 50),
        (2, "b", 51),
        (3, "c", 103),
    ]
    assert [job.name for job in result] == [
        "00000-100-a",
        "00001-50-b",
        "00002-51-b",
        "00003-103-c",
    ]
    assert [job.seed for job in jobs([{"prompt": "a"}, {"prompt": "b"}], num_images=3)] == [
        *range(6)
    ]


def test_a_name_of_ones_own() -> None:
    result = jobs([{"prompt": "a", "name": "owl.png", "num_images": 3}, {"prompt": "b"}])
    assert [job.name for job in result] == ["owl", "owl-2", "owl-3", "00003-3-b"]


def test_a_row_has_its_own_settings_and_the_options_hold_for_the_rest() -> None:
    row = {"prompt": "a", "cfg": "1,2,3,3,3,3,3", "tau": 0.7, "top_p": 0, "negative": "blur"}
    own, plain = jobs([row | {"budget": 50, "policy": "snapkv"}, {"prompt": "b"}], budget="20%")
    assert own.settings.cfg == (1, 2, 3, 3, 3, 3, 3)
    assert (own.settings.tau, own.settings.top_p, own.settings.negative) == (0.7, 0, "blur")
    assert (own.settings.policy, own.settings.budget) == ("snapkv", "50")
    assert (plain.settings.policy, plain.settings.budget) == ("scalekv", "20%")
    full, also = jobs([{"prompt": "a", "budget": "full"}, {"prompt": "a", "policy": "full"}])
    assert (full.settings.policy, full.settings.budget) == ("full", "full")
    assert also.settings == full.settings


def test_every_option_that_is_a_pictures_own_is_a_column() -> None:
    rows: list[dict[str, Any]] = [
        {"prompt": "a", "size": "128x128", "cfg_layer": "-1,-5", "positive_prompt": "yes"},
        {"prompt": "a", "kv_dtype": "int8", "cfg_layer": [-1], "positive_prompt": False},
        {"prompt": "word " * 600, "truncate": True},
    ]
    first, second, third = (job.settings for job in jobs(rows, positive_prompt=True))
    assert (first.ratio, first.pixels) == ("1:1", "0.06M")
    assert (first.cfg_layer, first.positive_prompt, first.kv_dtype) == ((-1, -5), True, "auto")
    assert (second.cfg_layer, second.positive_prompt, second.kv_dtype) == (-1, False, "int8")
    assert (first.truncate, third.truncate, third.positive_prompt) == (False, True, True)
    for bad, words in (
        ({"size": "9x9"}, "draws no pictures of 9x9"),
        ({"size": "128x128", "ratio": "1:1"}, "given twice"),
        ({"cfg_layer": 1}, "guidance layer 1"),
        ({"kv_dtype": "fp8"}, "kv_dtype is 'fp8'"),
        ({"positive_prompt": "perhaps"}, "positive_prompt is 'perhaps'"),
    ):
        with pytest.raises(UserError, match=words):
            jobs([{"prompt": "a", **bad}])


def test_pictures_of_equal_settings_run_together() -> None:
    rows = [{"prompt": p, "budget": b} for p, b in ("a1", "b2", "c1", "d1", "e2")]
    assert [[job.prompt for job in group] for group in groups(jobs(rows))] == [
        ["a", "c", "d"],
        ["b", "e"],
    ]


def test_parts_share_out_every_picture_once() -> None:
    result = jobs([{"prompt": p, "num_images": 3} for p in "abcd"])
    parts = [selected(result, 0, None, (i, 5)) for i in range(1, 6)]
    assert sorted(job.index for part in parts for job in part) == list(range(12))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    chosen = selected(result, 1, 2, None)
    assert [(job.prompt, job.index) for job in chosen][::3] == [("b", 3), ("c", 6)]
    assert [job.index for job in selected(result, 1, 2, (1, 2))] == [4, 6, 8]
    assert selected(result, 4, None, None) == []


@pytest.mark.parametrize("text", ["0/2", "3/2", "1/0", "1", "a/b", "-1/2", "1/2/3", "١/٢"])
def test_no_such_part(text: str) -> None:
    with pytest.raises(UserError, match="no shard"):
        shard_of(text)
    assert shard_of("2/2") == (2, 2)


def test_the_mark_is_that_of_the_picture() -> None:
    (one,) = jobs([{"prompt": "a"}])
    same = [
        jobs([{"prompt": "x"}, {"prompt": "a", "seed": 0, "name": "other"}])[1],
        jobs([{"prompt": "a", "cfg": 3.0, "tau": 0.5, "budget": "10%"}])[0],
        jobs([{"prompt": "a", "budget": "26"}])[0],  # what 10% comes to
        jobs([{"prompt": "a"}], reproducible=True, batch_size="4")[0],
        jobs([{"prompt": "a", "cfg_layer": 0, "size": "128x128", "top_p": 0.97}])[0],
    ]
    assert {job.mark for job in same} == {one.mark}
    others = [
        jobs([{"prompt": "A"}])[0],
        jobs([{"prompt": "a"}], seed=1)[0],
        jobs([{"prompt": "a", "cfg": 2.5}])[0],
        jobs([{"prompt": "a", "negative": "b"}])[0],
        jobs([{"prompt": "a", "policy": "snapkv"}])[0],
        jobs([{"prompt": "a", "cfg_layer": -1}])[0],
        jobs([{"prompt": "a", "kv_dtype": "int8"}])[0],
        jobs([{"prompt": "a", "budget": "27"}])[0],
        jobs([{"prompt": "a"}], dtype="bf16")[0],
    ]
    assert len({one.mark, *(job.mark for job in others)}) == len(others) + 1


def test_a_row_of_a_job_asks_for_the_same_picture() -> None:
    row = {"prompt": "a é", "cfg": [1, 2, 3, 3, 3, 3, 3], "budget": "20%", "kv_dtype": "int8"}
    other = {"prompt": "a man", "positive_prompt": True, "cfg_layer": [-1, -2]}
    first = jobs([row, other], seed=9)
    again = jobs([as_row(job) for job in first], seed=1000, policy="snapkv")
    assert [(job.mark, job.name) for job in again] == [(job.mark, job.name) for job in first]


def test_seeds_beyond_the_last() -> None:
    with pytest.raises(UserError, match="picture 2 has the seed"):
        jobs([{"prompt": "a", "seed": 2**63 - 1, "num_images": 2}])
    with pytest.raises(UserError, match="picture 1 has the seed"):
        jobs([{"prompt": "a"}, {"prompt": "b"}], seed=2**63 - 1)


def test_a_typing_error_in_num_images_does_not_fill_the_memory() -> None:
    with pytest.raises(UserError, match="1,000,000,000,000 pictures"):
        jobs([{"prompt": "a", "num_images": 10**12}])


def test_names_without_an_index_must_differ_by_themselves() -> None:
    with pytest.raises(UserError, match="that of line 1 too"):
        jobs([{"prompt": "a"}, {"prompt": "A"}], template="{slug}")
    assert [j.name for j in jobs([{"prompt": "a"}, {"prompt": "b"}], "{slug}")] == ["a", "b"]


def test_missing_weights_are_told_after_all_that_is_wrong_in_the_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(check_module, "model_files", model_files)
    with pytest.raises(UserError, match="seed is -1"):
        jobs([{"prompt": "a", "seed": -1}], model="infinity-2b")
    with pytest.raises(UserError) as missing:
        jobs([{"prompt": "a"}], model="infinity-2b")
    assert "scalekv download infinity-2b" in missing.value.fix
