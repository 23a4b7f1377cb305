"""A line of options in a file of prompts, `--prompt "a red apple" --seed 3`, as other programs have
them. Knows words; nothing of what the values mean.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from itertools import zip_longest

from scalekv.kv.errors import close_matches

ALSO_CALLED = {
    "n": "num_images",
    "negative_prompt": "negative",
    "cfg_scale": "cfg",
    "n_iter": "num_images",
}
"""What other programs call a column in such lines (AUTOMATIC1111's script for prompt files)."""


class BadLine(Exception):
    """A line of options that cannot be read as one."""

    RULE = "pairs of --COLUMN VALUE; a prompt that is to begin with -- is written \\--"

    def __init__(self, what: str, fix: str = "") -> None:
        super().__init__(what)
        self.what, self.fix = what, fix


def options_of(line: str, columns: Sequence[str]) -> dict[str, str]:
    """The columns that a line names, with their values.

    Raises:
        BadLine: no such column, one twice or without a value, or a quote that is left open.
    """
    try:
        words = shlex.split(line)
    except ValueError as error:
        raise BadLine(f"options that cannot be told apart: {error}".lower()) from None
    values: dict[str, str] = {}
    for option, value in zip_longest(words[::2], words[1::2]):
        name = option.lstrip("-").replace("-", "_")
        name = ALSO_CALLED.get(name, name)
        if not option.startswith("-"):
            raise BadLine(
                f"{option!r} stands where an option is expected",
                "put a text with spaces in double quotes",
            )
        if name not in columns:
            raise BadLine(f"unknown option {option!r}", close_matches(name, columns))
        if value is None:
            raise BadLine(f"{option} has no value")
        if name in values:
            raise BadLine(f"{option} is there twice")
        values[name] = value
    return values
