"""What people see has nothing in it that a terminal would obey."""

from __future__ import annotations

import io
import os
import pty
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from rich.table import Table
from rich.text import Text

from scalekv.cli.console.terminal import Terminal, harmless
from scalekv.cli.pictures.writing import Writing
from tests.cli.conftest import Outcome, StandIn
from tests.cli.test_main import PROGRAM

Program = Callable[..., Outcome]

EVIL = "an owl\x1b]0;mine\x07\x1b[2J\x9b31m\r\u202egnp.\x08"


def test_harmless() -> None:
    assert harmless("an owl, 猫 👩\u200d👩 हिन्दी\n\t") == "an owl, 猫 👩\u200d👩 हिन्दी\n\t"
    assert harmless(EVIL) == ("an owl\\x1b]0;mine\\x07\\x1b[2J\\x9b31m\\r\\u202egnp.\\x08")


def test_everything_a_console_prints() -> None:
    table = Table(title=EVIL)
    table.add_column(EVIL)
    table.add_row(Text(EVIL, style="bold red"))
    out = io.StringIO()
    console = Terminal(
        file=out, force_terminal=True, color_system="truecolor", width=200, highlight=False
    )
    for shown in (EVIL, Text(EVIL), table):
        console.print(shown, markup=False)
    output = out.getvalue()
    assert output.count("\\x1b]0;mine") >= 4
    assert "\x1b[1;31m" in output  # its own colours still are
    for bad in ("\x1b]", "\x1b[2J", "\x07", "\x9b", "\u202e", "\x08", "\r"):
        assert bad not in output, repr(bad)


@pytest.mark.parametrize("given", [("generate", EVIL), ("generate", EVIL, "--cfg", "x")])
def test_prompts_on_stderr(
    given: tuple[str, ...], scalekv: Program, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in.truncated = EVIL
    output = scalekv(*given).err
    assert not set(output) & {"\x07", "\x9b", "\x08", "\u202e"}
    assert "\x1b]" not in output
    assert "\x1b[2J" not in output


def test_prompts_on_a_terminal_that_is_stdout(tmp_path: Path) -> None:
    """`inspect` shows the prompt of a picture that came from anywhere."""
    picture = tmp_path / "p.png"
    settings = {"prompt": EVIL, "seed": 1}
    picture.write_bytes(Writing().file(Image.new("RGB", (4, 4)), EVIL, settings))
    outer, inner = pty.openpty()
    done = subprocess.run([*PROGRAM, "inspect", str(picture)], stdout=inner, check=False)
    os.close(inner)
    output = b""
    try:
        while part := os.read(outer, 4096):
            output += part
    except OSError:  # the other end is closed
        pass
    os.close(outer)
    assert done.returncode == 0
    assert b"an owl\\x1b]0;mine" in output
    assert b"\x1b" not in output
    assert b"\x07" not in output
