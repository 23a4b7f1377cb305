"""How far a batch is, in words: counts, speed, time left; moving on a terminal, plain elsewhere."""

from __future__ import annotations

import io
import time

import pytest
from rich.console import Console

from scalekv.cli.batch.tally import Tally, human_rate, human_time
from scalekv.cli.console import progress
from scalekv.cli.console.progress import Display


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_speed_is_that_of_this_run_since_its_first_scale() -> None:
    clock = Clock()
    tally = Tally(10, before=4, clock=clock)
    clock.now += 50  # loading
    tally.start()
    assert (str(tally), tally.seconds_left) == ("4/10  cache 0 B", None)
    for _ in range(2):
        clock.now += 4
        tally.start()
        tally.picture_made()
    tally.held_bytes = 3 * 2**20
    assert tally.per_second == 0.25
    assert str(tally) == "6/10  15.0/min  16 s left  cache 3.0 MiB"
    tally.failed = 1
    assert str(tally) == "6/10  1 failed  15.0/min  12 s left  cache 3.0 MiB"


@pytest.mark.parametrize(
    ("per_second", "words"),
    [(20, "20.0/s"), (1, "1.0/s"), (0.5, "30.0/min"), (1 / 90, "40.0/h"), (0, "0.0/h")],
)
def test_rates(per_second: float, words: str) -> None:
    assert human_rate(per_second) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (99, "99 s"), (100, "2 min"), (3600, "60 min"), (11100, "3 h 05 min")],
)
def test_times(seconds: float, words: str) -> None:
    assert human_time(seconds) == words


@pytest.mark.parametrize("columns", [20, 40, 100])
def test_a_terminal_of_any_width_has_one_moving_line(columns: int) -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=columns, color_system=None)
    with Display(console, elapsed=False) as display:
        display.status("12/60  1.0/s  48 s left  cache 1.2 MiB", 12.5, 60)
        display.clear()
        before = out.getvalue()
        display.clear()
        assert out.getvalue() == before
    output = out.getvalue()
    assert "12/60" in output
    assert ("━" in output) == (columns >= progress.NARROW)
    assert "\n\n" not in output


def test_elsewhere_a_line_every_few_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    out = io.StringIO()
    display = Display(Console(file=out, force_terminal=False, width=100))
    for done in range(20):
        clock.now += 1
        display.status(f"{done}/20", done, 20)
    assert out.getvalue().split() == ["4/20", "9/20", "14/20", "19/20"]
    display = Display(Console(file=io.StringIO()), quiet=True)
    clock.now += 100
    display.status("said", 1, 2)
    display.note("said")
    assert display.console.file.getvalue() == ""  # type: ignore[attr-defined]
