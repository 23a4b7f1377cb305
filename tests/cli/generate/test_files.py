"""Where pictures go and what they are called, and where their prompts come from."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from scalekv.cli import engine
from scalekv.cli.generate import run as run_module
from tests.cli.conftest import Outcome, StandIn

Program = Callable[..., Outcome]


def names(folder: str = ".") -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir())


def seeds(stand_in: StandIn) -> list[int]:
    request = stand_in.requests[-1]
    return [request.seed_of(index) for index in range(request.pictures)]


def type_in(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))


@pytest.mark.parametrize(
    ("file", "kind"), [("fox.png", "PNG"), ("fox.jpg", "JPEG"), ("fox.JPEG", "JPEG")]
)
def test_a_file(scalekv: Program, stand_in: StandIn, file: str, kind: str) -> None:
    done = scalekv("generate", "a fox", "-o", file)
    assert (done.code, done.out) == (0, f"{file}\n"), done.err
    assert set(names()) == {"fox.json", file}, "whoever names a file gets that and its sidecar"
    with Image.open(file) as image:
        assert image.format == kind
    assert json.loads(Path("fox.json").read_text())["file"] == file


def test_a_file_in_a_folder_and_a_report_that_is_asked_for(
    scalekv: Program, stand_in: StandIn
) -> None:
    assert scalekv("generate", "a fox", "-o", "a/b/fox.webp", "--memory-report", "json").code == 0
    assert names("a/b") == ["fox.json", "fox.webp", "report.json"]


def test_several_pictures_of_one_file_are_numbered(scalekv: Program, stand_in: StandIn) -> None:
    done = scalekv("generate", "a fox", "an owl", "-n", "5", "--out", "x/fox.png")
    assert done.code == 0
    assert done.out.splitlines()[:2] == ["x/fox-01.png", "x/fox-02.png"]
    assert done.out.splitlines()[-1] == "x/fox-10.png"


def test_a_folder_that_is_called_like_a_file(scalekv: Program, stand_in: StandIn) -> None:
    Path("fox.png").mkdir()
    assert scalekv("generate", "a fox", "-o", "fox.png").out == "fox.png/0-a-fox.png\n"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--out", "there.png"), ["there.png is there already", "nothing is overwritten"]),
        (("--out", "beside.png"), ["beside.json is there already"]),
        (("--out", "x.png", "--name", "{seed}"), ["x.png is a name", "leave out --name"]),
        (("--out", "x.png", "--format", "jpg"), ["--format says jpg", "--out x.jpg"]),
        (("--out", "x.gif"), ["no format that is written", "--out x.png"]),
        (("--out", "report.png"), ["names of files that scalekv writes"]),
        (("--quality", "80"), ["PNG has no quality", "--format jpg"]),
        (("--format", "jpg", "--quality", "0"), ["--quality"]),
        (("--format", "tiff"), ["'tiff'", "png, jpg, webp"]),
        (("--name", "{prompt}"), ["unknown field 'prompt'", "{slug}"]),
        (("--name", "{sede}"), ["unknown field 'sede'", "did you mean seed"]),
        (("--name", "{slug}", "-n", "2"), ["two pictures would be called an-owl", "{index}"]),
        (("--name", "a/{slug}"), ["no folders"]),
        (("--name", "there"), ["there.png is there already"]),
        (("--seed", "1,x"), ["--seed", "several with commas"]),
        (("--seed", "1,2", "-n", "3"), ["2 seeds, and 3 pictures", "leave out --num-images"]),
        (("--seed", f"1,{2**63}"), ["--seed"]),
        (("--wildcards", "nowhere"), ["no folder nowhere"]),
        (("--wildcards", "on", "a {red|blue"), ["{ is not closed", "--wildcards"]),
    ],
)
def test_refusals(
    scalekv: Program, stand_in: StandIn, options: tuple[str, ...], words: list[str]
) -> None:
    Path("there.png").touch()
    Path("beside.json").touch()
    folder = () if "there" not in options else ("-o", ".")
    done = scalekv("generate", "an owl", *options, *folder)
    assert (done.code, done.out, stand_in.loaded) == (2, "", [])
    for word in words:
        assert word in done.err
    assert names() == ["beside.json", "there.png"]


def test_names_from_a_template(scalekv: Program, stand_in: StandIn) -> None:
    done = scalekv(
        *("generate", "an owl", "a red fox", "-n", "2", "-s", "5", "--format", "jpeg"),
        *("--name", "{index:03d}-{line}.{image}-{slug:.5}-{seed}-{budget}-{policy}"),
    )
    assert done.out.splitlines() == [
        "out/000-1.0-an-ow-5-10%-scalekv.jpg",
        "out/001-1.1-an-ow-6-10%-scalekv.jpg",
        "out/002-2.0-a-red-7-10%-scalekv.jpg",
        "out/003-2.1-a-red-8-10%-scalekv.jpg",
    ]


def test_a_name_that_is_taken_meanwhile_costs_no_picture(
    scalekv: Program, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = stand_in.load

    def late(*arguments: Any) -> Any:
        Path("out/owl.png").touch()
        return load(*arguments)

    monkeypatch.setattr(engine, "load", late)
    done = scalekv("generate", "an owl", "--name", "owl")
    assert done.out == "out/owl-2.png\n"
    assert "owl was taken meanwhile: out/owl-2.png" in done.err


def test_no_metadata(scalekv: Program, stand_in: StandIn) -> None:
    assert scalekv("generate", "an owl", "--no-metadata").code == 0
    with Image.open("out/0-an-owl.png") as image:
        assert not image.info
    assert json.loads(Path("out/0-an-owl.json").read_text())["settings"]["prompt"] == "an owl"
    assert "says nothing" in scalekv("inspect", "out/0-an-owl.png").err


def test_seeds(scalekv: Program, stand_in: StandIn) -> None:
    done = scalekv("generate", "an owl", "a fox", "--seed", "1,7,9")
    assert done.code == 0, done.err
    assert seeds(stand_in) == [1, 7, 9, 1, 7, 9]
    assert "out/9-a-fox.png" in done.out
    scalekv("generate", "an owl", "a fox", "-n", "2", "--seed", "5", "--same-seed")
    assert seeds(stand_in) == [5, 6, 5, 6]
    scalekv("generate", "an owl", "-n", "2", "--seed", "random")
    first = seeds(stand_in)
    scalekv("generate", "an owl", "-n", "2", "--seed", "random")
    assert first != seeds(stand_in)
    assert first[1] == first[0] + 1


def test_seeds_that_are_set(
    scalekv: Program, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCALEKV_SEED", "3,4")
    monkeypatch.setenv("SCALEKV_NUM_IMAGES", "5")
    scalekv("generate", "an owl")
    assert seeds(stand_in) == [3, 4]
    assert scalekv("bench").code == 2
    assert "bench draws from one seed" in scalekv("bench").err
    scalekv("generate", "an owl", "--seed", "8")
    assert seeds(stand_in) == [8, 9, 10, 11, 12]


def test_prompts_from_stdin_and_files(
    scalekv: Program, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    type_in(monkeypatch, "an owl\n\n# no prompt\n\\#1\n")
    Path("more.csv").write_text('prompt\n"a fox, red"\n')
    Path("list").write_text("a pizza\n")
    done = scalekv("generate", "first", "-", "@more.csv", "@list", "\\@home", "\\-")
    assert done.code == 0, done.err
    assert stand_in.requests[0].prompts == (
        *("first", "an owl", "#1", "a fox, red", "a pizza", "@home", "-"),
    )


@pytest.mark.parametrize(
    ("prompts", "words"),
    [
        (("-", "-"), ["stdin is named twice"]),
        (("@nowhere.txt",), ["No such file", "nowhere.txt"]),
        (("@rows.jsonl",), ["it says seed", "rows.jsonl"]),
        (("-",), ["no prompt in it"]),
    ],
)
def test_prompts_that_are_none(
    scalekv: Program,
    stand_in: StandIn,
    monkeypatch: pytest.MonkeyPatch,
    prompts: tuple[str, ...],
    words: list[str],
) -> None:
    type_in(monkeypatch, "")
    Path("rows.jsonl").write_text('{"prompt": "x", "seed": 1}\n')
    done = scalekv("generate", *prompts)
    assert (done.code, stand_in.loaded) == (2, [])
    for word in words:
        assert word in done.err


def test_wildcards_are_drawn_from_each_pictures_seed(scalekv: Program, stand_in: StandIn) -> None:
    Path("lists").mkdir()
    Path("lists/animal.txt").write_text("owl\nfox\nbear\n")
    wanted = ("generate", "a {red|blue} __animal__", "-n", "4", "--wildcards", "lists")
    assert scalekv(*wanted).code == 0
    drawn = stand_in.requests[0].prompts
    assert len(drawn) == 4
    assert len(set(drawn)) > 1
    assert seeds(stand_in) == [0, 1, 2, 3]
    scalekv("generate", "a {red|blue} __animal__", "-s", "2", "--wildcards", "lists", "-o", "b")
    assert stand_in.requests[1].prompts == drawn[2:3]
    sidecars = [json.loads(p.read_text()) for p in sorted(Path("out").glob("[0-9]*.json"))]
    assert [s["settings"]["prompt"] for s in sidecars] == list(drawn)
    assert {s["template"] for s in sidecars} == {"a {red|blue} __animal__"}


def test_braces_are_letters_unless_wildcards_are_on(scalekv: Program, stand_in: StandIn) -> None:
    done = scalekv("generate", "a {red|blue} fox")
    assert stand_in.requests[0].prompts == ("a {red|blue} fox",)
    assert "drawn as it stands: 'a {red|blue} fox'; --wildcards" in done.err


def test_opening(scalekv: Program, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Path] = []

    def viewed(path: Path) -> str:
        opened.append(path)
        return ""

    monkeypatch.setattr(run_module, "open_with_viewer", viewed)
    scalekv("generate", "an owl", "--open")
    scalekv("generate", "an owl", "a fox", "--open", "-o", "both")
    assert opened == [Path("out/0-an-owl.png"), Path("both")]


@pytest.mark.parametrize(
    ("program", "display", "words"),
    [(None, ":0", "xdg-open is not installed"), ("/bin/true", "", "there is no display")],
)
def test_nothing_to_open_with(
    scalekv: Program,
    stand_in: StandIn,
    monkeypatch: pytest.MonkeyPatch,
    program: str | None,
    display: str,
    words: str,
) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr("shutil.which", lambda _: program)
    monkeypatch.setenv("DISPLAY", display)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    done = scalekv("generate", "an owl", "--open")
    assert done.code == 0, "the picture is there"
    assert f"not opened: {words}; it is out/0-an-owl.png" in done.err
