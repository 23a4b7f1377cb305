"""What needs no running server: kept pictures, addresses and keys, refusals at the start."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from scalekv.cli.serve import kept as kept_module
from scalekv.cli.serve.guard import is_loopback
from scalekv.cli.serve.kept import SECONDS, Kept
from scalekv.cli.serve.run import read_key
from scalekv.kv import extras
from scalekv.kv.errors import UserError
from tests.cli.conftest import Outcome, StandIn

Program = Callable[..., Outcome]


def test_a_picture_is_kept_for_ten_minutes() -> None:
    now = [0.0]
    kept = Kept(lambda: now[0])
    token = kept.keep(b"png")
    now[0] = SECONDS - 1
    assert (kept.find(token), kept.find("another")) == (b"png", None)
    now[0] = SECONDS + 1
    assert kept.find(token) is None


def test_the_oldest_go_where_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_module, "MOST_BYTES", 10)
    kept = Kept()
    tokens = [kept.keep(b"12345") for _ in range(3)]
    assert [kept.find(token) for token in tokens] == [None, b"12345", b"12345"]
    large = kept.keep(b"x" * 100)
    assert kept.find(large) == b"x" * 100


@pytest.mark.parametrize(
    ("host", "own"),
    [("127.0.0.1", True), ("localhost", True), ("::1", True), ("0.0.0.0", False), ("h", False)],
)
def test_loopback(host: str, own: bool) -> None:
    assert is_loopback(host) is own


@pytest.mark.parametrize("content", [b"", b"short", b"two words that are long", b"\xff" * 20])
def test_no_key(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(content)
    with pytest.raises(UserError, match="API key"):
        read_key(path)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--host", "0.0.0.0"), "--api-key-file"),
        (("--api-key-file", "missing"), "cannot read the API key"),
        (("--host", "192.0.2.1", "--without-key"), "cannot listen"),
        (("--budget", "200%"), "share of the history"),
        (("--model", "infinity-2b"), "scalekv download"),
    ],
)
def test_what_is_refused_before_the_model_loads(
    scalekv: Program, arguments: tuple[str, ...], word: str
) -> None:
    done = scalekv("serve", "--port", "0", *arguments)
    assert done.code == 2
    assert word in " ".join(done.err.split())


def test_without_the_extra_it_says_which(
    scalekv: Program, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda _: None)
    done = scalekv("serve")
    assert done.code == 2
    assert "the extra serve" in done.err
    assert stand_in.loaded == []
