"""Options about a cluster: refused before anything is read where they cannot be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from scalekv.kv import extras
from tests.cli.conftest import Outcome, StandIn

Program = Callable[..., Outcome]


@pytest.fixture(autouse=True)
def prompts() -> None:
    Path("p.txt").write_text("an owl\n")


def test_without_the_extra_it_is_named_before_anything_else(
    scalekv: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda _: None)
    done = scalekv("batch", "no-such-file.txt", "--engine", "ray", "--model", "no-such-model")
    assert done.code == 2
    assert "comes with the extra ray" in done.err
    assert "pip install ray" in done.err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--engine", "spark"), "no engine 'spark'"),
        (("--workers", "2"), "add --engine ray, or leave out --workers"),
        (("--workers-write",), "--workers-write is for a cluster"),
        (("--gpus-per-worker", "0.5"), "--gpus-per-worker is for a cluster"),
        (("--address", "auto"), "--address is for a cluster"),
        (("--engine", "ray", "--gpus-per-worker", "1.5"), "cannot have 1.5 GPUs"),
        (("--engine", "ray", "--gpus-per-worker", "0"), "cannot have 0 GPUs"),
        (("--engine", "ray", "--gpus-per-worker", "nan"), "cannot have nan GPUs"),
        (("--engine", "ray", "--address", "node7"), "'node7' is no address"),
        (("--engine", "ray", "--address", "ray://a:10001"), "an address of Ray Client"),
        (("--engine", "ray", "--device", "cuda:1"), "workers get theirs from Ray"),
    ],
)
def test_what_cannot_be(
    scalekv: Program, stand_in: StandIn, options: tuple[str, ...], said: str
) -> None:
    done = scalekv("batch", "p.txt", "--out", "out", *options)
    assert done.code == 2
    assert said in done.err
    assert not Path("out").exists()


def test_a_preview_needs_no_cluster(scalekv: Program, stand_in: StandIn) -> None:
    done = scalekv("batch", "p.txt", "--out", "out", "--engine", "ray", "--dry-run")
    assert (done.code, done.out) == (0, "out/00000-0-an-owl.png\n")
