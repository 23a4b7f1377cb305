"""What "auto" came to is what settings say, and settings of before are read."""

from __future__ import annotations

from pathlib import Path

import pytest

from scalekv.configs.models import model_named
from scalekv.infinity_patch.asked.request import Request
from scalekv.infinity_patch.asked.settled import settle
from scalekv.infinity_patch.evaluation.kept import PICTURES, EvaluationFolder
from scalekv.infinity_patch.evaluation.precisions import (
    computed_in,
    precisions_of,
    with_precisions,
)
from scalekv.infinity_patch.evaluation.rows import Row
from scalekv.infinity_patch.loading.placement import Placement
from scalekv.infinity_patch.planning import planner
from scalekv.kv.errors import UserError


@pytest.mark.parametrize(
    ("placement", "device", "stored", "weights", "text"),
    [
        (Placement(), "cpu", None, "bf16", "fp32"),
        (Placement(), "cuda", None, "bf16", "fp16"),
        (Placement(), "cuda", "fp8", "fp8", "fp16"),
        (Placement(weights="int8", text_device="cpu"), "cuda", None, "int8", "fp32"),
        (Placement(weights="bf16", text_device="cuda:1"), "cpu", None, "bf16", "fp16"),
        (Placement(text_dtype="int8"), "cuda", None, "bf16", "int8"),
        (Placement(text_dtype="bf16"), "cuda", "int8", "int8", "bf16"),
    ],
)
def test_what_auto_comes_to(
    monkeypatch: pytest.MonkeyPatch,
    placement: Placement,
    device: str,
    stored: str | None,
    weights: str,
    text: str,
) -> None:
    monkeypatch.setattr(planner, "stored_weights", lambda *_: stored)
    settled = settle(Request(("a",)), model_named("emoji"), device, "bf16")
    found = precisions_of(settled, placement, None)
    assert found == {"weights_dtype": weights, "text_dtype": text}


@pytest.mark.parametrize(("device", "text"), [("cpu", "fp32"), ("cuda", "fp16")])
def test_settings_of_before_are_read_as_what_was_usual(
    tmp_path: Path, device: str, text: str
) -> None:
    folder = EvaluationFolder(tmp_path)
    before: Row = {"dtype": "bf16", "device": device}
    own = before | {"weights_dtype": "bf16", "text_dtype": text}
    (tmp_path / "pictures.jsonl").write_text(f'{{"settings": {before}}}\n'.replace("'", '"'))
    assert folder.settings(PICTURES) == with_precisions(before) == own
    folder.rows(PICTURES, own, None)
    for name, other in (("weights_dtype", "int8"), ("text_dtype", "int8")):
        with pytest.raises(UserError, match=f"another {name}: {own[name]}, now int8") as refused:
            folder.rows(PICTURES, own | {name: other}, None)
        assert (refused.value.where, refused.value.fix != "") == (
            str(tmp_path / "pictures.jsonl"),
            True,
        )
    assert with_precisions(own | {"weights_dtype": "fp8"})["weights_dtype"] == "fp8"
    assert with_precisions({"scores": 1}) == {"scores": 1}


def test_in_words() -> None:
    words = computed_in({"dtype": "bf16", "weights_dtype": "int8", "text_dtype": "fp32"})
    assert words == "bf16, weights in int8, text encoder in fp32"
