"""Rows to a result, and a result to tables: values worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest

from scalekv.configs.models import model_named
from scalekv.infinity_patch.evaluation.protocols import PROTOCOLS, protocol_named
from scalekv.infinity_patch.evaluation.published import PUBLISHED, published_for
from scalekv.infinity_patch.evaluation.summary import joined, result
from scalekv.infinity_patch.evaluation.tables import (
    beside_papers,
    changes,
    differences,
    latex,
    markdown,
    quality,
    report,
)
from scalekv.kv.errors import UserError

SETTINGS: dict[str, Any] = {
    "protocol": "scalekv",
    "model": "infinity-2b",
    "dtype": "bf16",
    "weights_dtype": "int8",
    "text_dtype": "fp16",
    "tokens": [1, 3],
    "captions": "captions.txt",
    "seed": 0,
    "cfg": [3.0, 3.0],
    "tau": [1.0, 1.0],
    "top_p": 0.97,
    "pixels": "1M",
    "ratio": "1:1",
}
FULL, LESS = ("full", "full", "auto"), ("scalekv", "paper-10", "auto")


def row(
    number: int, variant: tuple[str, str, str], psnr: float | None, held: int
) -> dict[str, Any]:
    policy, budget, kv_dtype = variant
    return {
        "number": number,
        "policy": policy,
        "budget": budget,
        "kv_dtype": kv_dtype,
        "stored_as": "bf16",
        "files": {},
        "psnr": psnr,
        "ssim": 1.0 if psnr is None else 0.5,
        "bits": [1.0, 1.0] if psnr is None else [1.0, 0.6],
        "held_peak_bytes": held,
        "full_bytes": 1000,
        "full_bytes_all": 4000,
        "machine": "a card",
    }


@pytest.fixture
def told() -> dict[str, Any]:
    """Three captions, one of them the same picture under both caches."""
    rows = [row(n, FULL, None, 1000) for n in (2, 0, 1)]
    rows += [row(0, LESS, 20.0, 100), row(1, LESS, None, 100), row(2, LESS, 23.0, 90)]
    names = ("number", "policy", "budget", "kv_dtype")
    lpips = [{**{name: one[name] for name in names}, "value": 0.25} for one in rows[3:]]
    fids = [{**{name: rows[3][name] for name in names[1:]}, "pictures": 3, "value": 2.5}]
    scores = [{**fids[0], "score": "geneval", "value": 0.73, "pictures": 2212}]
    return result(SETTINGS, joined(rows, {"lpips": lpips}), fids, {"features": "why"}, scores)


def test_psnr_is_the_mean_over_pictures_that_differ(told: dict[str, Any]) -> None:
    full, less = told["variants"]
    assert "psnr" not in full
    assert (less["psnr"]["mean"], less["psnr"]["median"], less["identical"]) == (21.5, 20.0, 1)
    assert less["ssim"]["mean"] == pytest.approx(2 / 3)
    assert (less["lpips"]["mean"], less["fid"]) == (0.25, {"value": 2.5})


def test_bits_are_counted_by_how_many_a_scale_has(told: dict[str, Any]) -> None:
    less = told["variants"][1]
    assert less["bits"]["mean"] == pytest.approx((0.7 + 1.0 + 0.7) / 3)
    assert [scale["mean"] for scale in less["bits"]["by_scale"]] == pytest.approx([1.0, 2.2 / 3])


def test_denominators_are_the_full_caches(told: dict[str, Any]) -> None:
    less = told["variants"][1]
    assert less["held_peak_bytes"] == 100
    assert (less["share_of_history"], less["share_of_all_scales"]) == (0.1, 0.025)
    assert told["full_cache_bytes"] == {"history": 1000, "all_scales": 4000}


def test_scores_of_others_have_a_column(told: dict[str, Any]) -> None:
    grid = quality(told)
    assert grid.headings[-1] == "geneval"
    assert [cells[-1] for cells in grid.rows] == ["", "0.73"]


def test_a_measure_that_some_captions_lack_is_not_given() -> None:
    rows = [row(0, FULL, None, 9), row(0, LESS, 20.0, 5), row(1, LESS, 20.0, 5)]
    half = {"number": 0, "policy": LESS[0], "budget": LESS[1], "kv_dtype": LESS[2], "value": 1.0}
    found = result(SETTINGS, joined(rows, {"lpips": [half]}), [], {})
    assert "lpips" not in found["variants"][1]


def test_the_papers_row_is_beside_ones_own(told: dict[str, Any]) -> None:
    (same,) = (
        cells
        for cells in beside_papers(told).rows
        if cells[:4] == ["arXiv 2505.19602", "infinity-2b", "10 %", "scalekv"]
    )
    assert same[4:] == ["22.64", "21.50", "0.11", "0.250", "2.53", "2.50"]
    assert len(beside_papers(told).rows) == 16


def test_what_differs_is_said(told: dict[str, Any]) -> None:
    lines = "\n".join(differences(told))
    assert "3 of captions.txt here; 5,000 of COCO there" in lines
    assert "1 of 4 tokens here, 6425 of 10521 there" in lines
    assert "1 that are the same have none" in lines
    assert "FID: of 3 pictures here, of 5,000 there" in lines
    assert "Model:" not in lines
    other = differences(told | {"settings": SETTINGS | {"model": "emoji", "tau": [0.5, 0.5]}})
    assert other[0].startswith("Model: emoji here, infinity-2b there")
    assert "Sampling: tau is 0.5 here, 1.0 in the protocol." in other
    assert changes(SETTINGS, PROTOCOLS["preset"]) == []


def test_tables_in_markdown_and_latex(told: dict[str, Any]) -> None:
    grid = quality(told)
    assert markdown(grid).splitlines()[1] == "| --- " * len(grid.headings) + "|"
    lines = latex(grid).splitlines()
    assert lines[0] == r"\begin{tabular}{lll" + "r" * (len(grid.headings) - 3) + "}"
    assert r"10.0\%" in lines[-3]
    assert lines[-3].endswith(r"\\")
    assert "Left out: feature distance: why." in report(told)
    assert "infinity-2b, bf16, weights in int8, text encoder in fp16, on a card;" in report(told)


def test_budgets_are_the_published_ones_where_there_are_some() -> None:
    protocol = protocol_named("scalekv")
    assert protocol.budgets_for(model_named("infinity-2b")) == ["paper-20", "paper-10", "paper-4"]
    assert protocol.budgets_for(model_named("emoji")) == ["20%", "10%", "4%"]
    assert protocol.pixels_for(model_named("infinity-2b")) == "1M"
    assert protocol.pixels_for(model_named("emoji")) == "0.06M"
    with pytest.raises(UserError, match="no protocol 'scalkv'"):
        protocol_named("scalkv")


def test_the_papers_table_has_five_methods_at_three_budgets_of_two_models() -> None:
    papers = [one for one in PUBLISHED if one.source.startswith("arXiv")]
    assert len({(one.model, one.percent, one.policy) for one in papers}) == len(papers) == 30
    assert {one.model for one in published_for("emoji")} == {"infinity-2b"}
    for one in papers:
        best = min(p.fid for p in papers if (p.model, p.percent) == (one.model, one.percent))
        assert (one.fid == best) == (one.policy == "scalekv")
