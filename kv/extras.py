"""Packages that only some commands need, and the refusal where one is missing. Imports none."""

from __future__ import annotations

from importlib.util import find_spec

from scalekv.kv.errors import UserError

EXTRAS = {
    "fastapi": "serve",
    "matplotlib": "plots",
    "prometheus_client": "serve",
    "pyarrow": "eval",
    "ray": "ray",
    "torchmetrics": "metrics",
    "uvicorn": "serve",
}
"""Package -> the extra in pyproject.toml that brings it."""


def needs(package: str, what: str, otherwise: str = "") -> None:
    """Refuses where a package of an extra is not installed; does not import it.

    Args:
        package: its name, one of `EXTRAS`.
        what: what needs it, as the subject of a sentence: "the heat maps".
        otherwise: how to do without it: "--no-plots to go without".

    Raises:
        UserError: it is not installed; with the command that installs it.
    """
    if find_spec(package) is None:
        raise UserError(
            f"{package} is not installed, and {what} cannot be made without it",
            where=what,
            rule=f"it comes with the extra {EXTRAS[package]}",
            fix=f"pip install {package}" + (f", or {otherwise}" if otherwise else ""),
        )
