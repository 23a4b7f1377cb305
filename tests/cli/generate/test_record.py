"""`scalekv generate --record`: a file beside each picture, named in its sidecar."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors import safe_open

from tests.cli.conftest import Outcome, StandIn

Program = Callable[..., Outcome]


def test_a_file_beside_every_picture(scalekv: Program) -> None:
    done = scalekv(
        *("generate", "a fox", "-n", "2", "--device", "cpu", "--dtype", "fp32", "--quiet"),
        *("--batch-size", "2", "--no-reproducible", "--record", "qkv:layers=0,2:scales=7"),
    )
    assert done.code == 0, done.err
    assert done.out == "out/0-a-fox.png\nout/1-a-fox.png\n"
    for seed in range(2):
        about = json.loads(Path(f"out/{seed}-a-fox.json").read_text())["attention"]
        path = Path("out") / about["file"]
        assert about == {
            "file": f"{seed}-a-fox.qkv.safetensors",
            "layers": [0, 2],
            "scales": [7],
            "bytes": path.stat().st_size,
        }
        with safe_open(path, "pt") as file:
            assert len(file.keys()) == 10
            # one picture a file, whatever the batch: two halves of guidance
            assert file.get_slice("scale7.layer2.q").get_shape() == [2, 4, 256, 64]
            assert file.metadata()["policy"] == "scalekv"
    assert not list(Path("out").glob(".*"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--record", "qk"], ["record is 'qk'", "qkv:layers=0,4"]),
        (["--record", "qkv:layers=8"], ["no layer 8", "from 0 to 7"]),
        (["--record", "qkv", "--policy", "heatkv"], ["unequally many tokens"]),
        (["--record", "qkv", "--server", "http://127.0.0.1:1"], ["--record is for a model"]),
    ],
)
def test_refusals(
    scalekv: Program, stand_in: StandIn, arguments: list[str], words: list[str]
) -> None:
    done = scalekv("generate", "x", *arguments)
    assert (done.code, done.out, stand_in.loaded) == (2, "", [])
    assert all(word in done.err for word in words), done.err
    assert not Path("out").exists()
