"""Lists of prompts: those that ship, one for every model."""

from __future__ import annotations

import pytest

from scalekv.cli.batch.file import prompts_alone
from scalekv.configs.models import PROMPTS_FOLDER, calibration_prompts, list_models
from scripts.builtin.captions import load_heldout
from scripts.evaluate.contact_sheet import PROMPTS


@pytest.mark.parametrize("model", list_models())
def test_every_model_has_a_list(model: str) -> None:
    path = calibration_prompts(model)
    assert path.stem == ("emoji" if model == "emoji" else "neutral")
    prompts = prompts_alone(path)
    assert 10 <= len(prompts) == len(set(prompts)) <= 32


def test_nothing_held_out_and_nothing_shown_is_calibrated_on() -> None:
    held_out = load_heldout()
    styles = {concept for concept, _ in held_out.styles}
    for prompt in prompts_alone(PROMPTS_FOLDER / "emoji.txt"):
        name = prompt.split(",")[0].removeprefix("a ").removeprefix("an ")
        assert name not in held_out.concepts | styles
        assert prompt not in PROMPTS
