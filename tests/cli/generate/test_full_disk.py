"""A disk that fills up while pictures are made: what exists is named, and the exit code is 1."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Outcome, StandIn

Program = Callable[..., Outcome]
ASKED = ("generate", "a", "b", "c", "--out", "out")


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Lets so many files get their name, and no more after that."""
    give, left = os.link, [0]

    def link(source: Any, target: Any) -> None:
        if left[0] == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        left[0] -= 1
        give(source, target)

    def after(files: int) -> None:
        left[0] = files
        monkeypatch.setattr(os, "link", link)

    return after


def pngs() -> list[str]:
    return sorted(str(path) for path in Path("out").glob("*.png"))


# A picture is two files, and the first is followed by the report's.
@pytest.mark.parametrize(("files", "pictures"), [(2, 1), (3, 1), (5, 2), (6, 2)])
@pytest.mark.parametrize("json_", [False, True], ids=["lines", "json"])
def test_what_exists_is_named(
    scalekv: Program,
    stand_in: StandIn,
    full: Callable[[int], None],
    files: int,
    pictures: int,
    json_: bool,
) -> None:
    full(files)
    done = scalekv(*ASKED, *(["--json"] if json_ else []))
    assert done.code == 1
    named = json.loads(done.out)["paths"] if json_ else done.out.splitlines()
    assert named == pngs()
    assert len(named) == pictures
    last = done.err.splitlines()[-1]
    what = json.loads(last)["error"]["what"] if json_ else last
    assert "No space left on device" in what
    assert f"{pictures} of 3 pictures are there" in what
    assert not list(Path("out").glob("*.part"))


def test_before_the_first_picture(
    scalekv: Program, stand_in: StandIn, full: Callable[[int], None]
) -> None:
    full(0)
    done = scalekv(*ASKED)
    assert (done.code, done.out) == (1, "")
    assert "0 of 3 pictures are there" in done.err
    assert not Path("out").exists()


def test_siblings(scalekv: Program, stand_in: StandIn, full: Callable[[int], None]) -> None:
    assert scalekv(*ASKED).code == 0
    for command in (["grid", "out"], ["compare", "a", "--out", "compared"]):
        full(0)
        done = scalekv(*command)
        assert done.code == 1, done.err
        assert "No space left on device" in done.err
