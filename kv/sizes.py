"""Reads and writes numbers of bytes with their units. Knows nothing else."""

from __future__ import annotations

import re
from fractions import Fraction
from math import ceil, floor

from scalekv.kv.errors import UserError

UNITS = {
    "B": 1,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
}
"""Bytes in a unit, as people write it, in capitals or not."""

SIZE = re.compile(r"([+-]?[\d.,]+)\s*([kmgt]i?b?|b|bytes?)", re.IGNORECASE)
"""What is meant as a size: a number and a unit of bytes, if perhaps not a good one."""

_KNOWN = {name.lower(): count for name, count in UNITS.items()} | {"byte": 1, "bytes": 1}


def parse_size(text: str, where: str) -> int:
    """Whole bytes of a size such as "1.5GiB" or "200 MB", rounded down.

    Raises:
        UserError: no number with a unit of bytes, less than a byte, or a unit that may mean
            thousands or 1024s.
    """
    match = SIZE.fullmatch(text.strip())
    if match is None:
        raise UserError(
            f"cannot read the size {text!r}",
            where=where,
            rule="a number and a unit, one of " + ", ".join(UNITS),
            fix=f"{where} 2GB, or 2GiB" if where.startswith("--") else "2GB or 2GiB, for instance",
        )
    number, unit = match.groups()
    count = _KNOWN.get(unit.lower())
    if count is None:
        letter = unit[0].upper()
        raise UserError(
            f"{number}{unit} may be meant in thousands or in 1024s",
            where=where,
            rule="units of bytes are " + ", ".join(UNITS),
            fix=f"{number}{letter}iB or {number}{letter}B",
        )
    try:
        size = Fraction(number) * count
    except ValueError:
        size = Fraction(0)
    if size < 1:
        raise UserError(
            f"{number}{unit} is not a size",
            where=where,
            rule="a size is a number above 0 with its unit, such as 1.5GiB or 200MB",
        )
    return floor(size)


def size_text(nbytes: int) -> str:
    """A size to be typed in turn: never less than `nbytes`, less than 1 % more, without a space."""
    for unit in ("GiB", "MiB", "KiB"):
        tenths = ceil(Fraction(10 * nbytes, UNITS[unit]))
        if tenths >= 100:
            return f"{tenths // 10}.{tenths % 10}{unit}".replace(".0", "")
    return f"{nbytes}B"


def human_bytes(count: int) -> str:
    """Bytes in the binary unit that leaves one to four digits before the point: "1.5 MiB"."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{count} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"
