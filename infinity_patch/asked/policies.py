"""A policy as people give it, with the calibration it works from: a name, a name and a file
("heatkv:order.json"), or an object.

Knows presets' calibrations; nothing of requests. Loads torch only where a policy is made.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from scalekv.configs.budget_files import calibration_file
from scalekv.configs.yaml_files import (
    MOST_CALIBRATION_BYTES,
    MOST_CONSTANTS_BYTES,
    read_bytes,
    read_text,
)
from scalekv.kv.budgets.budget import Budget
from scalekv.kv.errors import UserError
from scalekv.kv.policies.policy import Policy
from scalekv.kv.policies.registry import (
    entry_named,
    plan_named,
    planned,
    policy_and_file,
    policy_named,
    read_calibration,
    takes_budget,
)


def name_of(policy: str | Policy) -> str:
    """What a policy is called, without its file."""
    return policy_and_file(policy)[0] if isinstance(policy, str) else policy.name


def calibration_of(policy: str | Policy, model: str | None) -> Any:
    """What a policy works from, read without loading the policy: from the file it was given with,
    else from those that come with the model. None: it needs nothing, or is an object.

    Args:
        model: a preset's name; None: a model that no preset describes.

    Raises:
        UserError: unknown policy, no calibration for the model, or a file that is none.
    """
    if not isinstance(policy, str):
        return None
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
        status = path.stat()
        found = _read(name, path, status.st_mtime_ns, status.st_size)
    except OSError as error:
        raise UserError(
            f"{path.name} cannot be read: {error}",
            where=str(path),
            rule=f"{name} reads the {needed} that scalekv calibrate writes",
            fix="give the path of one",
        ) from error
    if entry.stores and model is not None and found.about.get("model", model) != model:
        raise UserError(
            f"these are constants of {found.about['model']}",
            where=str(path),
            rule=f"{name} works from constants of the model itself, which is {model}",
            fix=f"scalekv calibrate --model {model} --coded",
        )
    return found


@lru_cache(maxsize=8)
def _read(name: str, path: Path, changed: int, size: int) -> Any:
    """A file's calibration, the same object for all pictures while the file is as it was."""
    entry = entry_named(name)
    assert entry is not None, name
    content = (
        read_bytes(path, MOST_CONSTANTS_BYTES)
        if entry.stores
        else read_text(path, MOST_CALIBRATION_BYTES)
    )
    return read_calibration(entry, content, str(path))


def plan_of_policy(policy: str | Policy, asked: Budget, calibration: Any) -> Budget | None:
    """The budget as the policy plans it; None where the policy takes none. Loads no built-in
    policy that is given by name.

    Raises:
        UserError: a budget it cannot work with.
    """
    if isinstance(policy, str):
        return plan_named(name_of(policy), asked, calibration)
    return planned(policy, asked) if takes_budget(policy) else None


def make_policy(policy: str | Policy, calibration: Any) -> Policy:
    """The policy itself, ready to select.

    Args:
        calibration: what `calibration_of` gave for it.
    """
    if not isinstance(policy, str):
        return policy
    named: Any = policy_named(policy)
    ready: Policy = named if calibration is None else named.calibrated(calibration)
    return ready
