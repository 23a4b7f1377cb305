"""The notebook runs, says what it promises, and is a page of the site."""

from __future__ import annotations

import base64

import pytest

from scalekv.infinity_patch.files.hub import BUILT_IN
from scripts.notebook import as_page, code_cells, read_notebook, run_cells


def test_what_is_kept_is_of_its_five_cells() -> None:
    notebook = read_notebook()
    assert len(code_cells(notebook)) == 5
    assert [bool(cell["outputs"]) for cell in code_cells(notebook)] == [
        True,
        False,
        False,
        True,
        True,
    ]
    page = as_page(notebook)
    assert page.count("```python") == 5
    assert page.count("data:image/png;base64,") == 2
    assert "policy " in page


@pytest.mark.slow
@pytest.mark.skipif(
    not (BUILT_IN / "emoji" / "transformer.safetensors").exists(),
    reason="the built-in model's weights are not here",
)
def test_from_two_prompts_to_a_table_and_a_plot() -> None:
    pytest.importorskip("matplotlib")
    pytest.importorskip("torchmetrics")
    held, drawn, measured, table, plots = run_cells(read_notebook())
    assert drawn == measured == []
    assert "4341760 bytes" in "".join(held[0]["text"])
    rows = {line.split()[0]: line.split()[1:] for line in table[0]["text"][1:]}
    assert list(rows) == sorted(rows, key=lambda policy: -float(rows[policy][2]))
    assert {"scalekv", "hack-plus", "coded", "sliding-window"} == set(rows)
    assert all(float(row[1].rstrip("%")) <= 10 for row in rows.values())
    for plot in plots:
        assert base64.b64decode(plot["data"]["image/png"]).startswith(b"\x89PNG")
