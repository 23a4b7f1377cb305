"""Results that people sent are of the schema, and the leaderboard is made of them."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from scripts.leaderboard import FOLDER, SCHEMA, leaderboard, results

FILES = sorted(path.name for path in FOLDER.glob("*.json") if path.name != SCHEMA)
CHECK = Draft202012Validator(json.loads((FOLDER / SCHEMA).read_text(encoding="utf-8")))


@pytest.mark.parametrize("name", FILES)
def test_every_file_is_of_the_schema_and_whole(name: str) -> None:
    result = results()[name]
    CHECK.validate(result)
    assert name.startswith(f"{result['settings']['model']}-{result['settings']['protocol']}")
    assert {facts["pictures"] for facts in result["variants"]} == {result["pictures"]}
    assert len((FOLDER / name).read_bytes()) < 100_000


@pytest.fixture
def sent() -> dict[str, Any]:
    """A result as somebody may send it."""
    return dict(deepcopy(results()["emoji-scalekv.json"]))


def test_what_is_no_result_is_refused(sent: dict[str, Any]) -> None:
    changes: list[dict[str, Any]] = [
        {"format": 2},
        {"variants": []},
        {"home": "/home/me"},
        {"left_out": {"lpips": 0}},
    ]
    for change in changes:
        assert not CHECK.is_valid(sent | change), change
    assert not CHECK.is_valid(sent | {"settings": sent["settings"] | {"weights_dtype": "auto"}})
    sent["variants"][1]["fid"] = None
    assert not CHECK.is_valid(sent)


def test_the_page_ranks_what_may_be_compared_and_nothing_else(sent: dict[str, Any]) -> None:
    other, apart = deepcopy(sent), deepcopy(sent)
    for facts in other["variants"]:
        facts["policy"] = f"new-{facts['policy']}"
        if "psnr" in facts:
            facts["psnr"]["mean"] += 40
    apart["settings"]["captions_sha256"] = "0" * 64
    assert "weights_dtype" not in sent["settings"]
    other["settings"]["weights_dtype"] = "int8"
    assert CHECK.is_valid(sent | {"settings": other["settings"]})
    page = leaderboard({"a.json": sent, "b.json": other, "c.json": apart})
    sections = page.split("\n## ")[1:]
    assert len(sections) == 2
    first, second = sorted(sections, key=lambda section: "`b.json`" not in section)
    rows = [line for line in first.splitlines() if line.startswith("| ")][2:]
    assert rows[0].startswith("| new-")
    assert rows[0].endswith("`b.json` |")
    assert not any("c.json" in row for row in rows)
    assert "`c.json`" in second
    best = max(facts["psnr"]["mean"] for facts in sent["variants"] if "psnr" in facts)
    files = [line for line in first.splitlines() if line.startswith("- `")]
    assert len(files) == 2  # of before precisions of weights were recorded, and of after
    assert ", bf16, weights in bf16, text encoder in fp32, torch" in files[0]
    assert ", bf16, weights in int8, text encoder in fp32, torch" in files[1]
    assert f"| {best + 40:.2f} (" in rows[0] or f"| {best + 40:.2f} " in rows[0]


def test_the_site_has_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    from scripts import site

    assert site._leaderboard() == leaderboard(results())
    nav = (Path(__file__).parents[1] / "mkdocs.yml").read_text(encoding="utf-8")
    assert "leaderboard.md" in nav
