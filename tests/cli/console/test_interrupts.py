"""A Ctrl-C during a block that must be whole arrives at its end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from scalekv.cli.console.interrupts import (
    interruptible,
    interrupts_wait,
    raise_lost,
    received,
    told_how_it_ends,
)
from tests.cli.test_main import PROGRAM


def press() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_it_waits_and_arrives() -> None:
    before = signal.getsignal(signal.SIGINT)
    done = []

    def work() -> None:
        with interrupts_wait():
            press()
            done.append("all of it")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == ["all of it"]
    assert signal.getsignal(signal.SIGINT) == before


def test_nothing_happens_without_one() -> None:
    before = signal.getsignal(signal.SIGINT)
    with interrupts_wait():
        pass
    assert signal.getsignal(signal.SIGINT) == before


def test_an_error_inside_is_not_lost() -> None:
    with pytest.raises(ValueError, match="mine"), interrupts_wait():
        raise ValueError("mine")


def test_other_threads_are_left_alone() -> None:
    done = []

    def work() -> None:
        with interrupts_wait():
            done.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [True]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_any_of_them_is_a_ctrl_c_where_something_can_be_kept(number: int) -> None:
    before = signal.getsignal(number)

    def work() -> None:
        with interruptible():
            os.kill(os.getpid(), number)
            time.sleep(10)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert received() == number
    assert signal.getsignal(number) == before


@pytest.mark.parametrize(
    ("error", "outcome"),
    [(None, "complete"), (KeyboardInterrupt, "interrupted"), (ValueError, "failed")],
)
def test_how_a_block_ended_is_told_once_and_what_ended_it_goes_on(
    error: type[BaseException] | None, outcome: str
) -> None:
    told: list[str] = []

    def work() -> None:
        with told_how_it_ends(told.append):
            if error is not None:
                raise error

    if error is None:
        work()
    else:
        with pytest.raises(error):
            work()
    assert told == [outcome]


def test_what_is_told_at_the_end_is_written_whole() -> None:
    told: list[str] = []

    def write(outcome: str) -> None:
        press()
        told.append(outcome)

    def work() -> None:
        with interruptible(), told_how_it_ends(write):
            press()
            time.sleep(10)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert told == ["interrupted"]


class Swallows:
    """Python cannot hand on what is raised here."""

    def __del__(self) -> None:
        press()
        time.sleep(0.1)


def test_what_got_lost_is_raised_again(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyboardInterrupt), interruptible():
        Swallows()
    scales = []

    def work() -> None:
        with interruptible():
            Swallows()
            for scale in range(3):
                raise_lost()
                scales.append(scale)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert scales == []
    assert capsys.readouterr().err == ""


PRESSED_IN_A_TEXT = """
import sys
import typer
from scalekv.cli import main
from scalekv.cli.console.interrupts import interruptible

def command(**_):
    try:
        with interruptible():
            exec("import os, signal\\nos.kill(os.getpid(), signal.SIGTERM)\\nwhile True: pass")
    except KeyboardInterrupt:
        raise typer.Abort() from None

main._program_command = lambda: command
sys.exit(main.main(["draw"]))
"""


def test_the_exit_code_is_ours_where_a_text_was_executed(tmp_path: Path) -> None:
    (tmp_path / "pressed.py").write_text(PRESSED_IN_A_TEXT)
    command = [sys.executable, "-m", "pressed"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 128 + signal.SIGTERM, done.stderr
    assert done.stderr.strip() == "interrupted"


@pytest.mark.parametrize(
    ("number", "code", "waits"),
    [(signal.SIGINT, 130, (0.0, 0.3, 1.0, 2.0)), (signal.SIGTERM, 143, (0.3,))],
)
def test_at_any_moment_of_the_start(number: int, code: int, waits: tuple[float, ...]) -> None:
    """From the first line of ours on; what Python does before that is its own. Signals are handled
    alike, so that one of them is sent at many moments."""
    for wait in waits:
        command = [*PROGRAM, "generate", "a fox", "-n", "50", "--out", "early"]
        program = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        status = f"/proc/{program.pid}/status"
        last_of_ours = 1 << (signal.SIGHUP - 1)
        while not last_of_ours & int(_field(status, "SigCgt"), 16):
            assert program.poll() is None, program.communicate()
            time.sleep(0.005)
        time.sleep(wait)
        program.send_signal(number)
        _, output = program.communicate(timeout=60)
        assert (program.returncode, "Traceback" in output) == (code, False), output
        assert output.splitlines()[-1].startswith("interrupted"), output


def _field(path: str, name: str) -> str:
    with open(path) as file:
        return next(line.split()[1] for line in file if line.startswith(name + ":"))
