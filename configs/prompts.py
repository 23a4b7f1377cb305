"""The lists of prompts that ship: which one a model is calibrated on. No torch."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent / "prompts"
"""Where the lists for calibration ship: MODEL.txt, and neutral.txt for every other model."""


def calibration_prompts(model: str) -> Path:
    """The list that a model is calibrated on where none is named."""
    own = FOLDER / f"{model}.txt"
    return own if own.is_file() else FOLDER / "neutral.txt"
