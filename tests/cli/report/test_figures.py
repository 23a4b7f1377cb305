"""The memory report's figures and table, and what progress shows on a terminal and elsewhere."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any, cast

import pytest
from rich.console import Console

from scalekv.cli.console.progress import Display
from scalekv.cli.report.figures import (
    largest_cache,
    memory_report,
    print_summary,
    print_table,
    table_rows,
)
from scalekv.infinity_patch import Progress
from scalekv.kv.budgets.asked import capacities_for
from scalekv.kv.memory.ledger import CacheLedger, LayerRecord
from scalekv.kv.memory.predicted import CacheShape
from scalekv.kv.schedule import Schedule
from scalekv.kv.sizes import human_bytes

SCHEDULE = Schedule.parse("1x1 2x2 4x4")


def ledger(policy: str = "scalekv") -> CacheLedger:
    budget = None if policy == "full" else capacities_for(SCHEDULE, 1, (), 4, label="20%")
    result = CacheLedger(SCHEDULE, CacheShape(1, 2, 4, 64, 4, 4), policy, budget)
    for scale in range(3):
        result.record(scale, 0, LayerRecord(4, 4, 4, 4.0, 2048, 0))
    result.record_held(4096, 0)
    result.record_transient(2, 8192)
    return result


def console(width: int = 100, *, terminal: bool = False) -> tuple[Console, io.StringIO]:
    file = io.StringIO()
    return Console(file=file, width=width, force_terminal=terminal, highlight=False), file


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (3 << 29, "1.5 GiB"), (5 << 40, "5.0 TiB")],
)
def test_human_bytes(count: int, text: str) -> None:
    assert human_bytes(count) == text


def test_the_table_names_every_figure() -> None:
    report = memory_report(
        ledger().to_dict(),
        {"transformer": 100, "vae": 200, "text_encoder": 300},
        {
            "load": {"resident_peak_bytes": 5 << 20, "allocated_peak_bytes": 4 << 20},
            "scales": {
                "resident_peak_bytes": 3 << 20,
                "allocated_peak_bytes": 6 << 20,
                "reserved_peak_bytes": 7 << 20,
            },
        },
        {"load": {"transformer": 100}, "scales": {"transformer": 100}},
        ["device: counters"],
    )
    assert report["weights_bytes"]["all"] == 600
    assert report["ratio_history"] == report["cache"]["ratio_history"]
    to, file = console()
    print_table(report, to)
    rows = [line.strip() for line in file.getvalue().splitlines()]
    for name, words in {
        "cache held, peak": ["4.0 KiB", "scalekv", "20%", "4 tokens"],
        "cache held, last scale": ["2.0 KiB"],
        "cache transient, peak": ["8.0 KiB"],
        "full cache, history": ["20.0 KiB", "5 tokens, same dtype", "20.0%"],
        "full cache, all scales": ["84.0 KiB", "21 tokens, same dtype", "4.8%"],
        "full cache, history ": ["15.0 KiB", "5 tokens, published", "26.7%"],
        "full cache, all scales ": ["63.0 KiB", "21 tokens, published", "6.3%"],
        "weights, transformer": ["100 B"],
        "weights, VAE": ["200 B"],
        "weights, text encoder": ["300 B"],
        "peak, load": ["4.0 MiB", "4.0 MiB besides"],
        "peak, scales": ["6.0 MiB", "reserved 7.0 MiB"],
        "device, peak allocated": ["6.0 MiB"],
        "process, peak resident": ["5.0 MiB"],
    }.items():
        found = [row for row in rows if row.startswith(name)]
        assert any(all(word in row for word in words) for row in found), (name, found)


def test_a_narrow_terminal_gets_no_remarks() -> None:
    to, file = console(40, terminal=True)
    print_table(memory_report(ledger().to_dict(), {"vae": 200}, {}, {}, []), to)
    lines = file.getvalue().splitlines()
    assert "cache held, peak         4.0 KiB" in lines
    assert "weights, VAE               200 B" in lines
    assert all(len(line) <= 40 for line in lines)


def test_three_lines_and_one_where_a_model_has_another_policy() -> None:
    stages = {"load": {"resident_peak_bytes": 5 << 20}}
    to, file = console()
    report = memory_report(ledger().to_dict(), {"vae": 200}, stages, {}, [])
    print_summary(report, to, "out/report.json")
    lines = [
        "held   4.0 KiB  the most the cache held: policy scalekv, budget 20%",
        "of    20.0 KiB  what a full cache holds; that is 20.0%",
        "peak   5.0 MiB  the most memory of the process; more in out/report.json",
    ]
    assert file.getvalue().splitlines() == lines
    to, file = console()
    print_summary({**report, "alternative": "coded"}, to, "out/report.json")
    other = "or     4.0 KiB  --policy coded, which keeps every token"
    assert file.getvalue().splitlines() == [*lines[:2], other, lines[2]]


def test_without_pictures_the_peak_is_told() -> None:
    to, file = console()
    stages = {"load": {"allocated_peak_bytes": 6 << 20}}
    print_summary(memory_report(largest_cache([]), {"vae": 1}, stages, {}, []), to)
    assert file.getvalue() == "peak  6.0 MiB  the most memory of the device\n"


def test_without_pictures_there_is_still_a_report() -> None:
    to, file = console(30)
    print_table(memory_report(largest_cache([]), {"vae": 1}, {}, {}, []), to)
    assert "weights, VAE" in file.getvalue()


def test_full_says_so() -> None:
    to, file = console()
    print_table(memory_report(ledger("full").to_dict(), {}, {}, {}, []), to)
    assert "policy full: nothing is dropped" in file.getvalue()


def scale(number: int) -> Progress:
    result: Any = SimpleNamespace(
        picture=0, pictures=2, scale=number, scales=7, held_bytes=2048, together=1
    )
    return cast(Progress, result)


@pytest.mark.parametrize("width", [20, 48, 120])
def test_a_terminal_gets_a_moving_line_that_goes_away(width: int) -> None:
    to, file = console(width, terminal=True)
    with Display(to) as display:
        display.stage("loading emoji")
        for number in range(7):
            display.scale_done(scale(number))
        display.picture_done(0, 2, 1.5, "a [red] apple\nwith a leaf")
        after = len(file.getvalue())
        display.scale_done(scale(0))
    shown = file.getvalue()
    assert "scale 7/7" in shown or width == 20
    assert ("a [red] apple with a" if width == 20 else "a [red] apple with a leaf") in shown
    assert len(shown) > after
    assert shown.endswith("\x1b[2K")  # the line is erased and the cursor left where it was


def test_elsewhere_a_picture_is_a_line() -> None:
    to, file = console()
    with Display(to) as display:
        display.stage("loading emoji")
        for number in range(7):
            display.scale_done(scale(number))
        display.picture_done(0, 2, 1.5, "x" * 200)
    lines = file.getvalue().splitlines()
    assert lines == ["loading emoji", f"picture 1/2  1.5 s  {'x' * 59}…"]


def test_quiet_is_quiet() -> None:
    to, file = console(terminal=True)
    with Display(to, quiet=True) as display:
        display.stage("loading emoji")
        display.scale_done(scale(0))
        display.picture_done(0, 2, 1.5, "x")
    assert file.getvalue() == ""


def test_graphs_are_a_part_of_what_a_device_holds() -> None:
    graphs = {"mode": "auto", "recorded": 1, "replayed": 3, "held_bytes": 2 << 20, "eager": {}}
    stages = {name: {"allocated_peak_bytes": 6 << 20} for name in ("scales", "decode")}
    weights = {name: {"transformer": 1 << 20} for name in stages}
    report = memory_report(ledger().to_dict(), {}, stages, weights, [], graphs=graphs)
    assert report["graphs"] == graphs
    parts = report["stages"]["decode"]["parts"]
    assert (parts["recorded"], parts["everything_else"]) == (2 << 20, 3 << 20)
    assert report["stages"]["scales"]["parts"]["recorded"] == 0
    assert ("CUDA graphs", 2 << 20, "3 batches replayed") in table_rows(report)
    graphs |= {"recorded": 0, "held_bytes": 0, "eager": {"a policy of one's own": 1}}
    rows = table_rows(memory_report(ledger().to_dict(), {}, stages, weights, [], graphs=graphs))
    assert ("CUDA graphs", 0, "not recorded: a policy of one's own") in rows
