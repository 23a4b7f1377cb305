"""What rows may say: sweeps, notes, seeds, wildcards; and in which formats pictures are written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from scalekv.cli.batch.file import read_prompts
from scalekv.cli.batch.sweep import alternatives
from scalekv.kv.errors import UserError
from tests.cli.conftest import Outcome, StandIn

Program = Callable[..., Outcome]


def manifest(folder: str = "out") -> list[dict[str, Any]]:
    lines = Path(folder, "manifest.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def write(name: str, *rows: Any) -> str:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return name


@pytest.mark.parametrize(
    ("name", "value", "found"),
    [
        ("budget", ["5%", "10%", "full"], ["5%", "10%", "full"]),
        ("budget", "5%|10% | full", ["5%", "10%", "full"]),
        ("budget", "5%", ["5%"]),
        ("cfg", [1, 2, 3], [[1, 2, 3]]),
        ("cfg", [[1, 2], [3]], [[1, 2], [3]]),
        ("cfg", "3|1,2", ["3", "1,2"]),
        ("negative", "a|b", ["a|b"]),
        ("negative", ["a", "b"], ["a", "b"]),
        ("prompt", "a|b", ["a|b"]),
        ("seed", [1, 2], [[1, 2]]),
        ("ratio", [], [[]]),
    ],
)
def test_alternatives(name: str, value: object, found: list[object]) -> None:
    assert alternatives(name, value) == found


def test_a_sweep_draws_the_same_seeds_under_each_setting(
    scalekv: Program, stand_in: StandIn
) -> None:
    rows = write(
        "p.jsonl",
        {"prompt": "an owl", "budget": ["5%", "10%", "full"], "num_images": 2},
        {"prompt": "a fox"},
        {"prompt": "a cat", "policy": ["scalekv", "snapkv"], "cfg": [[2], [3]], "name": "cat"},
    )
    done = scalekv("batch", rows, "--seed", "50")
    assert done.code == 0, done.err
    listed = sorted(manifest(), key=lambda one: one["index"])
    assert [one["seed"] for one in listed] == [50, 51, 50, 51, 50, 51, 56, 57, 57, 57, 57]
    assert [one["index"] for one in listed] == list(range(11))
    assert [one["image"] for one in listed[:6]] == list(range(6))
    assert [one["file"] for one in listed[-4:]] == [f"cat{n}.png" for n in ("", "-2", "-3", "-4")]
    assert len({one["job"] for one in listed}) == 11
    budgets = [(r.policy, r.budget, len(r.prompts)) for r in stand_in.requests]
    assert budgets[:3] == [("scalekv", "5%", 2), ("scalekv", "10%", 3), ("full", "full", 2)]
    assert [(r.policy, r.cfg) for r in stand_in.requests[3:]] == [
        *(("scalekv", 2.0), ("scalekv", 3.0), ("snapkv", 2.0), ("snapkv", 3.0)),
    ]


def test_a_sweep_in_cells(scalekv: Program, stand_in: StandIn) -> None:
    Path("p.tsv").write_text("prompt\tbudget\tkv_dtype\nan owl, red\t5%|10%\tauto|int8\n")
    done = scalekv("batch", "p.tsv", "--name", "{image}-{budget}")
    assert done.out.split() == [f"out/{n}.png" for n in ("0-5%", "1-5%", "2-10%", "3-10%")]
    assert [r.kv_dtype for r in stand_in.requests] == ["auto", "int8"] * 2
    assert stand_in.requests[0].prompts == ("an owl, red",)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"budget": ["5%", "nonsense", "200%"]}, ["nonsense", "200%", "2 problems"]),
        ({"cfg": [[1, 2], ["x"]]}, ["cfg is ['x']"]),
        ({"budget": ["5%"] * 1000, "tau": [[1]] * 1000}, ["1,000,000 settings"]),
        ({"seed": [1, 2], "num_images": 3}, ["3 pictures and 2 seeds"]),
        ({"seed": "random"}, ["seed is 'random'", "several with commas"]),
        ({"seed": [1, -2]}, ["seed is [1, -2]"]),
    ],
)
def test_sweeps_that_are_refused(
    scalekv: Program, stand_in: StandIn, row: dict[str, Any], words: list[str]
) -> None:
    done = scalekv("batch", write("p.jsonl", {"prompt": "x", **row}))
    assert (done.code, done.out, stand_in.loaded) == (2, "", [])
    for word in words:
        assert word in done.err


def test_seeds_of_rows_and_of_all(scalekv: Program, stand_in: StandIn) -> None:
    rows = write("p.jsonl", {"prompt": "a", "seed": [4, 2]}, {"prompt": "b"}, {"prompt": "c"})
    scalekv("batch", rows, "--seed", "1,9")
    assert [one["seed"] for one in manifest()] == [4, 2, 1, 9, 1, 9]
    scalekv("batch", rows, "--seed", "7", "-n", "2", "--same-seed", "-o", "same")
    assert [one["seed"] for one in manifest("same")] == [4, 2, 7, 8, 7, 8]


def test_a_random_seed_is_said_and_cannot_be_resumed(scalekv: Program, stand_in: StandIn) -> None:
    done = scalekv("batch", write("p.jsonl", {"prompt": "a"}), "--seed", "random")
    assert f"seed {manifest()[0]['seed']}" in done.err
    done = scalekv("batch", "p.jsonl", "--seed", "random", "--resume")
    assert done.code == 2
    assert "nothing would be resumed" in done.err


def test_other_columns_are_notes(scalekv: Program, stand_in: StandIn) -> None:
    Path("p.csv").write_text("id,prompt,category\n7,an owl,birds\n8,a fox,\n")
    done = scalekv("batch", "p.csv")
    assert done.code == 0, done.err
    assert "kept as notes, not as settings: id, category" in done.err
    assert [one.get("notes") for one in manifest()] == [
        {"id": "7", "category": "birds"},
        {"id": "8"},
    ]
    sidecar = json.loads(Path("out/00000-0-an-owl.json").read_text())
    assert sidecar["notes"] == {"id": "7", "category": "birds"}
    Path("p.csv").write_text("prompt\nan owl\na fox\n")
    assert "2 of 2 pictures" in scalekv("batch", "p.csv", "--resume").err, "notes are no settings"


@pytest.mark.parametrize(
    ("column", "words"),
    [
        ("negative_prompt", "did you mean negative?"),
        ("Budget", "did you mean budget?"),
        ("buget", "did you mean budget?"),
        ("model", "--model says it for the whole batch"),
        ("format", "--format says it for the whole batch"),
        ("", "a column without a name"),
    ],
)
def test_a_column_that_may_be_meant_as_a_setting_is_no_note(
    scalekv: Program, stand_in: StandIn, column: str, words: str
) -> None:
    Path("p.csv").write_text(f"prompt,{column}\nx,y\n")
    done = scalekv("batch", "p.csv")
    assert (done.code, stand_in.loaded) == (2, [])
    assert words in done.err


def test_a_list_of_json() -> None:
    Path("p.json").write_text('[{"prompt": "a", "seed": 3, "id": [1]},\n "b", {"prompt": "c"}]')
    rows = read_prompts("p.json").rows
    assert [(row.line, row.values, row.notes) for row in rows] == [
        (1, {"prompt": "a", "seed": 3}, {"id": [1]}),
        (2, {"prompt": "b"}, {}),
        (3, {"prompt": "c"}, {}),
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[{"prompt": "a"}, {"prompt": "b", "seed": -1}]', "p.json, item 2"),
        ('[{"prompt": "a"},\n 3, 4]', "item 2: 3 is no object"),
        ('[{"prompt": "a"},\n {"prompt" "b"}]', "at line 2, column"),
        ('{"prompt": "a"}\n{"prompt": "b"}', "--file-format jsonl"),
        ('{"prompt": "a"}', "is no list"),
        ("[]", "no prompt in it"),
        ('[{"prompt": "a", "prompt": "b"}]', "a key is there twice"),
        ('["a", {"prompt": "b", "top_p": NaN}]', "NaN is no number"),
    ],
)
def test_a_list_of_json_that_is_none(
    scalekv: Program, stand_in: StandIn, text: str, words: str
) -> None:
    Path("p.json").write_text(text)
    done = scalekv("batch", "p.json")
    assert (done.code, stand_in.loaded) == (2, [])
    assert words in done.err


def test_what_format_means(scalekv: Program, stand_in: StandIn) -> None:
    Path("list").write_text('{"prompt": "x"}\n')
    done = scalekv("batch", "list", "--format", "jsonl")
    assert done.code == 2
    assert "--file-format jsonl" in done.err
    assert scalekv("batch", "list", "--file-format", "jsonl").code == 0
    done = scalekv("batch", "list", "-o", "fox.png")
    assert done.code == 2
    assert "a batch fills a folder" in done.err


@pytest.mark.parametrize("metadata", ["--metadata", "--no-metadata"])
@pytest.mark.parametrize("name", ["png", "jpg", "webp"])
def test_every_format_is_resumed(
    scalekv: Program, stand_in: StandIn, name: str, metadata: str
) -> None:
    rows = write("p.jsonl", *({"prompt": p} for p in "abc"))
    command = ("batch", rows, metadata, "--format", name)
    assert scalekv(*command).code == 0
    lines = Path("out/manifest.jsonl").read_text().splitlines(keepends=True)
    Path("out/manifest.jsonl").write_text(lines[0])  # the others as a kill leaves them
    Path(f"out/00002-2-c.{name}").unlink()
    done = scalekv(*command, "--resume")
    assert done.out == f"out/00002-2-c.{name}\n", done.err
    assert [one["file"] for one in manifest()] == [
        f"0000{n}-{n}-{c}.{name}" for n, c in enumerate("abc")
    ]
    with Image.open(f"out/00000-0-a.{name}") as image:
        assert image.format == {"jpg": "JPEG"}.get(name, name.upper())


def test_a_picture_that_says_nothing_is_known_by_exactly_its_bytes(
    scalekv: Program, stand_in: StandIn
) -> None:
    command = ("batch", write("p.jsonl", {"prompt": "a"}), "--no-metadata")
    scalekv(*command)
    Path("out/manifest.jsonl").unlink()
    Image.new("RGB", (8, 8), "red").save("out/00000-0-a.png")
    done = scalekv(*command, "--resume")
    assert done.code == 2
    assert "taken by other pictures" in done.err


def test_another_format_is_another_picture(scalekv: Program, stand_in: StandIn) -> None:
    rows = write("p.jsonl", {"prompt": "a"})
    scalekv("batch", rows)
    done = scalekv("batch", rows, "--resume", "--format", "webp")
    assert done.code == 2
    assert "taken by other pictures or other settings" in done.err


def test_wildcards_and_what_failed(scalekv: Program, stand_in: StandIn) -> None:
    rows = write("p.jsonl", {"prompt": r"a \{{red|blue}\} owl", "num_images": 6, "id": 3})
    assert scalekv("batch", rows, "--wildcards", "on").code == 0
    drawn = [one["prompt"] for one in manifest()]
    assert set(drawn) == {"a {red} owl", "a {blue} owl"}
    assert {one["template"] for one in manifest()} == {r"a \{{red|blue}\} owl"}
    stand_in.error, stand_in.failing = ValueError("boom"), ("a {red} owl",)
    done = scalekv("batch", rows, "--wildcards", "on", "-o", "bad")
    assert done.code == 1
    stand_in.error = None
    done = scalekv("batch", "bad/retry.jsonl", "--wildcards", "on", "-o", "bad", "--resume")
    assert done.code == 0, done.err
    made = sorted(manifest("bad"), key=lambda one: one["seed"])
    assert [one["prompt"] for one in made] == drawn
    assert all(one["notes"] == {"id": 3} for one in made)


def test_a_template_that_is_none_names_its_line(scalekv: Program, stand_in: StandIn) -> None:
    Path("p.txt").write_text("fine\na {red fox\n")
    done = scalekv("batch", "p.txt", "--wildcards", "on")
    assert (done.code, stand_in.loaded) == (2, [])
    assert "line 2" in done.err
    assert "{ is not closed" in done.err
    assert scalekv("batch", "p.txt").code == 0, "letters, where wildcards are off"


def test_a_prompt_that_a_jpeg_has_no_room_for(scalekv: Program, stand_in: StandIn) -> None:
    write("p.jsonl", {"prompt": "owl " * 20_000})
    done = scalekv("batch", "p.jsonl", "--truncate", "--format", "jpg")
    assert done.code == 2
    assert "too long for the settings of a JPEG" in done.err
    assert scalekv("batch", "p.jsonl", "--truncate", "--format", "webp").code == 0


def test_a_file_of_prompts_alone_has_no_notes() -> None:
    from scalekv.cli.batch.file import prompts_alone

    write("p.jsonl", {"prompt": "a", "id": 1})
    with pytest.raises(UserError, match="it says id"):
        prompts_alone("p.jsonl")
