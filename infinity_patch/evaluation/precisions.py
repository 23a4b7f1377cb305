"""In what the parts of a model hold their weights, as settings of rows say it.

Knows placements and names of settings; nothing of measures. No torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scalekv.configs.values import AUTO
from scalekv.infinity_patch.asked.settled import Settled
from scalekv.infinity_patch.evaluation.rows import Row
from scalekv.infinity_patch.loading.placement import Placement
from scalekv.infinity_patch.planning.planner import with_stored_weights

PRECISIONS = ("dtype", "weights_dtype", "text_dtype")
"""Settings: what the blocks compute in, how they hold their weights, how the text encoder does."""


def precisions_of(settled: Settled, placement: Placement, weights_dir: Path | None) -> Row:
    """How transformer and text encoder are held where a model is loaded so: what "auto" comes to.

    Args:
        placement: that the model is loaded with, which may be lighter than was asked for.
    """
    weights = with_stored_weights(placement, settled.preset, weights_dir).weights
    in_8_bits = placement.text_dtype == "int8"
    return {
        "weights_dtype": settled.dtype if weights == AUTO else weights,
        "text_dtype": "int8" if in_8_bits else placement.text_dtype_on(settled.device),
    }


def with_precisions(settings: Row) -> Row:
    """Settings as they were read; where they are of before precisions were recorded, with those
    that a run had without being told otherwise: the transformer's weights in its dtype, the text
    encoder in fp16 on CUDA and in fp32 elsewhere."""
    if "dtype" not in settings:  # of scores, which are of no model
        return settings
    text = Placement().text_dtype_on(str(settings.get("device", "")))
    return {"weights_dtype": settings["dtype"], "text_dtype": text} | settings


def computed_in(settings: Mapping[str, Any]) -> str:
    """In what pictures were computed, in words."""
    return "{dtype}, weights in {weights_dtype}, text encoder in {text_dtype}".format(**settings)
