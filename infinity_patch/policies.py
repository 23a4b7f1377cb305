"""From what was asked for to a policy that is ready for a model: finds the calibration it needs.

Knows presets' folders and files; no torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scalekv.configs.budgets import calibration_file
from scalekv.kv.errors import UserError
from scalekv.kv.policy import (
    Policy,
    entry_named,
    policy_and_file,
    policy_named,
    read_calibration,
)


def policy_for(policy: str | Policy, model: str | None) -> Policy:
    """The policy, with its calibration read: from the file it was given with
    ("heatkv:order.json"), else from those that come with the model.

    Args:
        model: a preset's name; None: a model that no preset describes.

    Raises:
        UserError: unknown policy, no calibration for the model, or a file that is none.
    """
    if not isinstance(policy, str):
        return policy
    calibration = calibration_of(policy, model)
    made: Any = policy_named(policy)
    ready: Policy = made if calibration is None else made.calibrated(calibration)
    return ready


def calibration_of(policy: str, model: str | None) -> Any:
    """What a policy works from, read without loading the policy; None: it needs nothing.

    Raises:
        UserError: as `policy_for`.
    """
    name, given = policy_and_file(policy)
    entry = entry_named(name)
    needed = "" if entry is None else entry.calibration
    if given is not None and not needed:
        raise UserError(
            f"the policy {name} reads no file",
            where=f"policy {policy!r}",
            rule="only a policy that works from a calibration takes one, as in heatkv:order.json",
            fix=f"--policy {name}",
        )
    if entry is None or not needed:
        return None
    path = Path(given) if given is not None else calibration_file(needed, model)
    if path is None:
        raise UserError(
            f"no {needed} is known for {model or 'this model'}",
            where=f"policy {name}",
            rule="it works from a calibration of the model",
            fix=f"scalekv calibrate --model {model or 'NAME'}, then --policy {name}:FILE",
        )
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path.name} cannot be read: {error}",
            where=str(path),
            rule=f"{name} reads the {needed} that scalekv calibrate writes",
            fix="give the path of one",
        ) from error
    return read_calibration(entry, text, str(path))
