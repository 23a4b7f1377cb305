"""Large files, files that changed since, and lines of options as other programs write them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from scalekv.cli.batch.file import read_prompts
from scalekv.cli.batch.jobs import MOST_PICTURES
from tests.cli.batch.test_command import check_folder, pngs
from tests.cli.conftest import Outcome, StandIn

Program = Callable[..., Outcome]


def test_too_many_pictures_are_refused_before_they_are_counted_out(
    scalekv: Program, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made(*_: object, **__: object) -> None:
        pytest.fail("a picture was thought of")

    monkeypatch.setattr("scalekv.cli.batch.jobs._pictures", made)
    Path("p.txt").write_text("an owl\na fox\n")
    for count in (MOST_PICTURES // 2 + 1, 1_000_000, 10**15):
        done = scalekv("batch", "p.txt", "-n", str(count), "--dry-run")
        assert done.code == 2
        assert f"{2 * count:,} pictures are asked for" in done.err


def test_many_bad_rows_are_twenty_lines_and_a_count(scalekv: Program) -> None:
    Path("p.csv").write_text("prompt,seed\n" + "a,x\n" * 5000)
    done = scalekv("batch", "p.csv")
    assert done.code == 2
    assert len(done.err.splitlines()) < 30
    assert "5000 problems" in done.err
    assert "and 4980 more, the last in line 5001" in done.err


def test_rows_put_in_at_the_top_cost_nothing_where_seeds_are_given(
    scalekv: Program, stand_in: StandIn
) -> None:
    Path("p.csv").write_text("prompt,seed\nan owl,7\na fox,8\n")
    assert scalekv("batch", "p.csv").code == 0
    before = pngs()
    Path("p.csv").write_text("prompt,seed\na cat,9\nan owl,7\na fox,8\nan owl,7\n")
    done = scalekv("batch", "p.csv", "--resume")
    assert (done.code, len(done.out.splitlines())) == (0, 2)
    assert "2 of them are of rows that stood elsewhere in the file" in done.err
    check_folder(files=sorted([*before, "00000-9-a-cat.png", "00003-7-an-owl.png"]))
    again = scalekv("batch", "p.csv", "--resume")
    assert (again.code, again.out) == (0, "")


def test_what_is_new_is_said(scalekv: Program, stand_in: StandIn) -> None:
    Path("p.txt").write_text("an owl\na fox\n")
    assert scalekv("batch", "p.txt").code == 0
    Path("p.txt").write_text("a cat\nan owl\na fox\n")
    for more in (["--dry-run"], []):
        done = scalekv("batch", "p.txt", "--resume", *more)
        assert done.code == 0
        assert "2 pictures here are of no row as the file is now; 3 are new" in done.err


def test_other_shards_pictures_are_no_strangers(scalekv: Program, stand_in: StandIn) -> None:
    Path("p.txt").write_text("an owl\na fox\na cat\n")
    assert scalekv("batch", "p.txt", "--shard", "1/2").code == 0
    done = scalekv("batch", "p.txt", "--shard", "2/2", "--resume")
    assert (done.code, "of no row" in done.err) == (0, False)


def test_lines_of_options() -> None:
    text = (
        '--prompt "a red apple" --seed 3\n'
        "--negative_prompt leaf --cfg_scale 2.5 --prompt 'an owl' -n 4\n"
        "\\--prompt is what it says\n"
    )
    Path("p.txt").write_text(text)
    file = read_prompts("p.txt")
    assert not file.problems
    assert [row.values for row in file.rows] == [
        {"prompt": "a red apple", "seed": "3"},
        {"negative": "leaf", "cfg": "2.5", "prompt": "an owl", "num_images": "4"},
        {"prompt": "--prompt is what it says"},
    ]


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("--prompt x --sed 3", "unknown option '--sed'"),
        ("--prompt x --seed", "--seed has no value"),
        ("--prompt x --prompt y", "--prompt is there twice"),
        ("--prompt a red apple", "stands where an option is expected"),
        ("--prompt 'x", "no closing quotation"),
        ("--seed 3", "the prompt is missing"),
        ("--prompt x --seed y", "seed is 'y'"),
    ],
)
def test_bad_lines_of_options(line: str, what: str, scalekv: Program, stand_in: StandIn) -> None:
    Path("p.txt").write_text(f"an owl\n{line}\n")
    done = scalekv("batch", "p.txt")
    assert done.code == 2
    assert what in done.err
    assert "line 2" in done.err


def test_a_batch_with_options_in_its_lines(scalekv: Program, stand_in: StandIn) -> None:
    Path("p.txt").write_text('--prompt "an owl" --seed 3 --budget 20%\na fox\n')
    assert scalekv("batch", "p.txt").code == 0
    assert [(r.prompts, r.seeds, r.budget) for r in stand_in.requests] == [
        (("an owl",), (3,), "20%"),
        (("a fox",), (1,), "10%"),
    ]
    lines = Path("out/manifest.jsonl").read_text().splitlines()
    assert [json.loads(line)["seed"] for line in lines] == [3, 1]
