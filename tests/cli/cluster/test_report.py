"""The report of a batch on a cluster: a row for each worker, and all of them together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
from rich.console import Console

from scalekv.cli.report.figures import WORKER_HEADS, print_table, worker_rows

SCHEMA = Path(__file__).parents[3] / "cli/report/schemas/report-1.schema.json"


def worker(number: int, pictures: int, lost: str | None = None) -> dict[str, Any]:
    return {
        "name": f"node/{number}",
        "host": "node",
        "device": "cpu",
        "device_name": None,
        "pictures": pictures,
        "seconds": {"load": 1.0, "drawing": 0.5 * pictures},
        "peak_bytes": 1024**2,
        "lost": lost,
    }


REPORT = {
    "cache": {},
    "weights_bytes": {},
    "stages": {},
    "memory": {},
    "workers": [worker(1, 4), worker(2, 6), worker(3, 0, "its process died")],
}


def test_rows_and_their_sum() -> None:
    rows = worker_rows(REPORT)
    assert rows[0] == ["node/1", "cpu", "4", "0.50", "1.0 MiB", ""]
    assert rows[2] == ["node/3", "cpu", "0", "", "1.0 MiB", "lost: its process died"]
    assert rows[3] == ["all", "", "10", "0.50", "2.0 MiB", ""]
    assert all(len(row) == len(WORKER_HEADS) for row in rows)


def test_one_process_has_no_rows() -> None:
    assert worker_rows({}) == []


def test_the_table_shows_them() -> None:
    console = Console(width=100)
    with console.capture() as capture:
        print_table(REPORT, console)
    assert "lost: its process died" in capture.get()


def test_the_schema_knows_them() -> None:
    schema = json.loads(SCHEMA.read_text())["properties"]["workers"]
    jsonschema.validate(REPORT["workers"], schema)
