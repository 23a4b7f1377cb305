"""How sparse the attention of a calibrated model was found to be: finds and reads the figure, which
`scalekv calibrate` writes and which ships for the built-in model. No torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scalekv.configs.budget_files import calibration_file
from scalekv.kv.errors import UserError

SHIPPED = "sparsity.json"
"""Beside the budgets that ship with a model: provenance and sparsity of its calibration."""

BESIDE = "-attention.json"
"""What the name of a calibration's numbers ends in, after that of its budget file."""


@dataclass(frozen=True)
class Sparsity:
    """Measured, not bounded.

    Attributes:
        carried: a part of the attention that later scales pay to earlier ones.
        share: of all (layer, head, source scale), the least that carries it.
        prompts, schedule, weights, date: of the calibration; weights as SHA-256.
    """

    carried: float
    share: float
    prompts: int
    schedule: str
    weights: str
    date: str

    @property
    def meaning(self) -> str:
        """One sentence for people."""
        return (
            f"Measured on {self.prompts} prompts (weights sha256 {self.weights[:12]}, "
            f"{self.date}): {self.carried:.0%} of the attention on earlier scales is carried by "
            f"{self.share:.1%} of all (layer, head, source scale); the smaller that share, "
            "the more whole heads and scales could be dropped. Single tokens are not counted."
        )

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain JSON values."""
        return {
            "carried": self.carried,
            "share": self.share,
            "prompts": self.prompts,
            "schedule": self.schedule,
            "weights": self.weights,
            "date": self.date,
            "meaning": self.meaning,
        }


def measured_sparsity(
    model: str, budget: object = None, *, own_weights: bool = False
) -> Sparsity | None:
    """The figure of the calibration that wrote `budget`, where that is the path of a budget file
    with a calibration's numbers beside it; else of the one that ships with the model.

    Args:
        own_weights: the model is not drawn with the weights it comes with, so that what ships
            says nothing of it.

    Returns:
        None: the model was not calibrated, as far as is known here.

    Raises:
        UserError: the numbers cannot be read, or are another model's.
    """
    path = None
    if isinstance(budget, str | Path) and str(budget).endswith((".yaml", ".yml")):
        file = Path(budget).expanduser()
        path = file.with_name(file.stem + BESIDE)
    if path is None or not path.is_file():
        path = None if own_weights else calibration_file(SHIPPED, model)
    return None if path is None else _read(path, model)


def _read(path: Path, model: str) -> Sparsity:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        origin, found = content["provenance"], content["sparsity"]
        of = str(origin["model"])
        sparsity = Sparsity(
            float(found["carried"]),
            float(found["earlier"]),
            int(origin["prompts"]),
            str(origin["schedule"]),
            str(origin["weights"]),
            str(origin["date"]),
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"not readable as the numbers of a calibration: {type(error).__name__}: {error}",
            where=str(path),
            rule="what scalekv calibrate writes beside a budget file",
            fix="calibrate again, or move the file away",
        ) from None
    if of != model:
        raise UserError(
            f"these numbers are of {of}, not of {model}",
            where=str(path),
            rule="a calibration belongs to one model",
            fix="calibrate again, or move the file away",
        )
    return sparsity
