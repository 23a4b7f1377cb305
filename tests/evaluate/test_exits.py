"""How a script that measures ends."""

from __future__ import annotations

import pytest

from scalekv.kv.errors import UserError
from scripts.evaluate.exits import exit_code


def test_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    def refused() -> None:
        raise UserError("no such thing", where="--out")

    assert [exit_code(work) for work in (lambda: None, refused, interrupted)] == [0, 2, 130]
    assert "no such thing" in (told := capsys.readouterr().err)
    assert "a second call goes on" in told
