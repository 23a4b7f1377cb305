"""Nothing of a result says whose machine it is from."""

from __future__ import annotations

from pathlib import Path

import pytest

from scalekv.cli.selftest.anonymous import anonymous


@pytest.fixture(autouse=True)
def somebody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("getpass.getuser", lambda: "janedoe")
    monkeypatch.setattr("socket.gethostname", lambda: "box7.lab.example.org")
    monkeypatch.setattr(Path, "home", lambda: Path("/home/Jane Doe"))


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("model.safetensors cannot be read", "model.safetensors cannot be read"),
        ("no file /data/janedoe/weights/vae.pth here", "no file vae.pth here"),
        ("in '/home/Jane Doe/hub/vae.pth': cut", "in 'vae.pth': cut"),
        ("~janedoe/x.json, and ~/y.json", "x.json, and y.json"),
        ("on box7, as janedoe@box7.lab.example.org", "on …, as …@…"),
        ("0.5 s/picture, 1/2, https://pytorch.org/get-started", None),
        ("--budget 10%: 26 tokens", None),
    ],
)
def test_text(text: str, left: str | None) -> None:
    assert anonymous(text) == (text if left is None else left)


def test_values() -> None:
    value = {"a": ["/srv/one/two.txt", 3, None], "b": {"c": True}, "d": ("/my runs/out/x",)}
    assert anonymous(value, (Path("/my runs/out"),)) == {
        "a": ["two.txt", 3, None],
        "b": {"c": True},
        "d": ["x"],
    }
