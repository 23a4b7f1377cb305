"""One small run that tests look at: two captions, two budgets, every measure that is here."""

from __future__ import annotations

import io
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from scalekv.cli.main import main
from tests.cli.conftest import Outcome

CAPTIONS = ("a red apple", "an owl")


def ask(out: Path, *more: str) -> Outcome:
    """`scalekv eval` with the shared captions, in this process."""
    file = out.parent / "captions.txt"
    file.write_text("\n".join(CAPTIONS), encoding="utf-8")
    words = ["eval", "--captions", str(file), "--budget", "20%,10%", "--threads", "1"]
    with redirect_stdout(io.StringIO()) as told, redirect_stderr(io.StringIO()) as said:
        code = main([*words, "--out", str(out), *more])
    return Outcome(code, told.getvalue(), said.getvalue())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    """The folder of a run, and how it ended."""
    pytest.importorskip("efficientnet_lite_pytorch")
    out = tmp_path_factory.mktemp("whole") / "run"
    return out, ask(out, "--agreement")
