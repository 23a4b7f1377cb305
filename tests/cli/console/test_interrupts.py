"""A Ctrl-C during a block that must be whole arrives at its end."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from scalekv.cli.console.interrupts import interrupts_wait


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
