"""Several values in one place of a row: a list in JSON, `5%|10%|full` in text. Knows columns and
values; nothing of what they mean.
"""

from __future__ import annotations

from typing import Any

from scalekv.configs.options import COLUMNS

BETWEEN = "|"
"""Stands between the values of a sweep in text."""

_ONE_VALUE = {"seed", "num_images"}  # several seeds are a value of their own
_FREE_TEXT = {"negative"}  # the sign may be meant as it is

SWEPT = COLUMNS.keys() - _ONE_VALUE
"""Columns that may have several values."""


def alternatives(name: str, value: Any) -> list[Any]:
    """The values that one place of a row holds, as they stand there: one, or several."""
    if name not in SWEPT:
        return [value]
    if isinstance(value, str) and BETWEEN in value and name not in _FREE_TEXT:
        return [part.strip() for part in value.split(BETWEEN)]
    if isinstance(value, list) and value:
        one_value = COLUMNS[name].kind.several and not any(isinstance(v, list) for v in value)
        return [value] if one_value else value
    return [value]
