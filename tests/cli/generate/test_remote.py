"""Pictures from a running server: the files that a run alone would leave, and every refusal."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Outcome, StandIn
from tests.cli.serve.conftest import Start, serve

__all__ = ["serve"]
Program = Callable[..., Outcome]
TIMED = ("seconds", "started")


def content(folder: Path) -> dict[str, Any]:
    """Everything in a folder but times."""
    found: dict[str, Any] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix == ".json":
            value = json.loads(path.read_text(encoding="utf-8"))
            for name in TIMED:
                value.pop(name, None)
            found[path.name] = value
        else:
            found[path.name] = path.read_bytes()
    return found


def test_the_same_files_as_alone(scalekv: Program, serve: Start) -> None:
    wanted = ("generate", "an owl", "a fox", "-n", "2", "--seed", "5", "--budget", "20%")
    alone = scalekv(*wanted, "--out", "alone")
    asked = scalekv(*wanted, "--out", "asked", "--server", serve().address)
    assert (alone.code, asked.code) == (0, 0), asked.err
    assert asked.out == alone.out.replace("alone/", "asked/")
    mine, theirs = content(Path("alone")), content(Path("asked"))
    assert list(mine) == list(theirs)
    for name in mine:
        if name.endswith(".json"):
            for one in (mine[name], theirs[name]):
                one.pop("model_chosen_by", None)
                one.get("model", {}).pop("chosen_by", None)
                one.pop("device", None)  # the stand-in's has an address in memory
        assert mine[name] == theirs[name], name


def test_what_is_done_with_pictures_is_done_here(scalekv: Program, serve: Start) -> None:
    wanted = (
        *("generate", "a {red|blue} owl", "a fox", "--seed", "3,8", "--wildcards", "on"),
        *("--format", "webp", "--quality", "70", "--name", "{line}-{seed}-{slug}"),
    )
    alone = scalekv(*wanted, "--out", "alone")
    asked = scalekv(*wanted, "--out", "asked", "--server", serve().address)
    assert (alone.code, asked.code) == (0, 0), asked.err
    pictures = sorted(path.name for path in Path("alone").glob("*.webp"))
    assert len(pictures) == 4
    for name in pictures:
        assert Path("alone", name).read_bytes() == Path("asked", name).read_bytes()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--server", "127.0.0.1:8000"), "no server's address"),
        (("--server", "ftp://x"), "no server's address"),
        (("--server", "http://127.0.0.1:1"), "nobody answers"),
        (("--server", "http://127.0.0.1:1", "--device", "cuda"), "--device is for a model"),
        (("--server", "http://127.0.0.1:1", "--from", "x.png"), "made again here"),
    ],
)
def test_what_is_refused(scalekv: Program, options: tuple[str, ...], words: str) -> None:
    done = scalekv("generate", "a fox", *options)
    assert done.code == 2
    assert words in " ".join(done.err.split())
    assert not Path("out").exists()


def test_what_the_server_says(scalekv: Program, serve: Start, stand_in: StandIn) -> None:
    address = serve().address
    done = scalekv("generate", "a fox", "--server", address, "--model", "infinity-2b")
    assert done.code == 2
    assert "draws with emoji" in done.err
    stand_in.error, stand_in.failing = MemoryError("no more"), ("large",)
    done = scalekv("generate", "large", "--server", address)
    assert done.code == 1
    assert "memory ran out" in done.err


def test_a_key_that_is_not_the_servers(
    scalekv: Program, serve: Start, key_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = serve(key_file=key_file).address
    done = scalekv("generate", "a fox", "--server", address)
    assert done.code == 2
    assert "SCALEKV_API_KEY" in done.err
    monkeypatch.setenv("SCALEKV_API_KEY", key_file.read_text(encoding="ascii").strip())
    assert scalekv("generate", "a fox", "--server", address).code == 0


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    path.write_text("0123456789abcdef-secret\n", encoding="ascii")
    return path
