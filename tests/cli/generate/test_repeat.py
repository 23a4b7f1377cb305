"""`scalekv inspect` and `scalekv generate --from`, on the built-in model itself."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngImageFile, PngInfo

from scalekv.infinity_patch.asked.request import Request
from scalekv.infinity_patch.files.hub import BUILT_IN
from scalekv.infinity_patch.generation.record import record, request_from
from tests.cli.conftest import Outcome

Program = Callable[..., Outcome]
pytestmark = pytest.mark.skipif(
    not (BUILT_IN / "emoji" / "transformer.safetensors").exists(),
    reason="the built-in model's weights are not here",
)
BUDGET = """\
model: emoji
layers: 8
drafters: [0, 5]
mean: 30
provenance: made up
"""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pictures, the second not the first of its run, with a budget from a file."""
    from scalekv.cli.main import main

    folder = tmp_path_factory.mktemp("pictures")
    (folder / "mine.yaml").write_text(BUDGET)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        code = main(
            [
                *("generate", "a red apple", "an octopus", "--seed", "4", "--cfg", "1,2,3,3,3,3,3"),
                *("--budget", "mine.yaml", "--negative", "blue", "--tau", "0.6", "--quiet"),
            ]
        )
    assert code == 0
    return folder


@pytest.fixture
def picture(pictures: Path) -> Path:
    """The second of them, in the working folder, beside the budget."""
    shutil.copy(pictures / "mine.yaml", "mine.yaml")
    return Path(shutil.copy(pictures / "out" / "5-an-octopus.png", "octopus.png"))


def rewrite(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Changes what is embedded in a picture."""
    with Image.open(path) as image:
        assert isinstance(image, PngImageFile)
        image.load()
        settings = json.loads(image.text["scalekv"])
    change(settings)
    texts = PngInfo()
    texts.add_text("scalekv", json.dumps(settings))
    image.save(path, pnginfo=texts)


def test_inspect(scalekv: Program, picture: Path) -> None:
    done = scalekv("inspect", "octopus.png")
    assert (done.code, done.err) == (0, "")
    rows = {line.split("  ")[0].strip(): line for line in done.out.splitlines()}
    assert rows["prompt"].endswith("an octopus")
    assert rows["budget"].endswith("mine.yaml")
    assert rows["tau"].endswith("0.6 at each of 7 scales")
    facts = json.loads(scalekv("inspect", "octopus.png", "--json").out)
    assert (facts["settings"]["seed"], facts["width"], facts["settings"]["negative"]) == (
        5,
        128,
        "blue",
    )


def test_again(scalekv: Program, picture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCALEKV_TAU", "0.1")  # what the picture says holds
    done = scalekv("generate", "--from", "octopus.png", "--out", "again", "--memory-report", "json")
    assert done.code == 0, done.err
    assert done.out == "again/5-an-octopus.png\n"
    assert "equal bit for bit to octopus.png" in done.err
    with Image.open(picture) as one, Image.open("again/5-an-octopus.png") as other:
        assert one.tobytes() == other.tobytes()


def test_a_picture_that_comes_out_otherwise(scalekv: Program, picture: Path) -> None:
    rewrite(picture, lambda settings: settings.update(seed=6))
    done = scalekv("generate", "--from", "octopus.png", "--json", "--quiet")
    assert done.code == 1
    assert json.loads(done.err)["error"]["kind"] == "different"
    assert json.loads(done.out)["paths"] == ["out/6-an-octopus.png"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s["versions"].update(scalekv="0.0.1"), ["scalekv was 0.0.1, here it is"]),
        (lambda s: s["versions"].update(torch="1.13.0"), ["torch was 1.13.0"]),
        (lambda s: s["weights"].update(vae="0" * 32), ["the vae has other weights"]),
        (lambda s: s.update(device="cuda:0"), ["no device 'cuda:0' here"]),
        (lambda s: s.pop("recorded"), ["does not say enough", "recorded"]),
        (lambda s: s.pop("prompt"), ["does not say enough", "prompt"]),
        (lambda s: s.pop("seed"), ["does not say enough", "seed"]),
        (lambda s: s.update(prompt=5, machine=[]), ["enough", "prompt, machine.name"]),
        (lambda s: s.update(dtype="float8"), ["does not say enough", "dtype"]),
        (lambda s: s["recorded"]["request"].update(cfg="much"), ["does not say enough", "cfg"]),
        (lambda s: s["recorded"]["request"].update(brightness=1), ["enough", "brightness"]),
        (lambda s: s["recorded"]["objects"].append("policy"), ["its policy was an object"]),
        (lambda s: s["recorded"]["files"].update({"mine.yaml": ""}), ["mine.yaml is not what it"]),
        (
            lambda s: s["recorded"]["files"].update({"no.yaml": ""}),
            ["the file no.yaml is not here"],
        ),
        (lambda s: s.update(model="infinity-9b"), ["infinity-9b"]),
        (lambda s: s.update(format=99), ["format 99"]),
    ],
)
def test_what_is_not_the_same_is_named(
    scalekv: Program, picture: Path, change: Callable[[dict[str, Any]], Any], words: list[str]
) -> None:
    rewrite(picture, change)
    done = scalekv("generate", "--from", "octopus.png")
    assert (done.code, done.out) == (2, ""), done.err
    for word in words:
        assert word in done.err
    assert not Path("out").exists()


def test_a_refusal_offers_the_nearest_command(scalekv: Program, picture: Path) -> None:
    rewrite(picture, lambda settings: settings["versions"].update(scalekv="0.0.1"))
    done = scalekv("generate", "--from", "octopus.png", "--json")
    error = json.loads(done.err)["error"]
    assert error["kind"] == "not-repeatable"
    assert (
        "scalekv generate 'an octopus' --model emoji --budget mine.yaml --policy scalekv"
        in error["fix"]
    )
    assert "--cfg 1,2,3,3,3,3,3" in error["fix"]
    assert "--tau 0.6 --top-p 0.97 --negative blue" in error["fix"]


@pytest.mark.parametrize(
    "arguments", [["a fox"], ["--seed", "5"], ["--budget", "20%"], ["--truncate"], ["-n", "1"]]
)
def test_the_picture_settles_everything(
    scalekv: Program, picture: Path, arguments: list[str]
) -> None:
    done = scalekv("generate", "--from", "octopus.png", *arguments)
    assert done.code == 2
    assert "both say what to draw" in done.err


def test_other_files(scalekv: Program) -> None:
    Image.new("RGB", (8, 8)).save("plain.png")
    Path("text.png").write_text("text")
    for name, words in (
        ("plain.png", "nothing about how"),
        ("text.png", "it is no picture"),
        ("none.png", "No such file"),
    ):
        done = scalekv("inspect", name)
        assert (done.code, words in done.err) == (2, True)
        assert scalekv("generate", "--from", name).code == 2


def test_requests_go_there_and_back() -> None:
    request = Request(
        ("a", "b"), policy="snapkv", budget="5%", seed=9, cfg=(1.0, 2.0), cfg_layer=(-1, -5)
    )
    kept = json.loads(json.dumps(record(request)))
    again = request_from(kept["request"], "b", 10)
    assert again == Request(
        ("b",),
        policy="snapkv",
        budget="5%",
        seed=10,
        cfg=(1.0, 2.0),
        cfg_layer=(-1, -5),
        reproducible=True,
    )
    assert record(Request(("a",), drafters={1: (0, 2)}))["objects"] == ["drafters"]
