"""Values read from text, or from what JSON has for them: numbers, lists, flags, names.

Knows which forms values come in; nothing of which options there are.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from scalekv.kv.errors import close_matches

AUTO = "auto"
"""Left to the program, which looks at the machine."""

MOST_SEED = 2**63 - 1

_FLAGS = {"true": True, "yes": True, "on": True, "1": True}
_FLAGS |= {"false": False, "no": False, "off": False, "0": False}
_CONTROL = {chr(code) for code in (*range(32), *range(127, 160))} - set("\t\n\r")


class Unreadable(ValueError):
    """A value in another form than the rule says; `fix` is what to do about it, or ""."""

    def __init__(self, rule: str, fix: str = "") -> None:
        super().__init__(rule)
        self.rule = rule
        self.fix = fix


def _nothing(_model: str) -> Sequence[str]:
    return ()


@dataclass(frozen=True)
class Kind:
    """A form of values.

    Attributes:
        read: a text, or a value of JSON, to the value; raises `Unreadable`.
        metavar: what stands for a value in the help; "" for flags.
        shell: what the command line reads it as: str, int, float or bool.
        least, most: bounds that the command line itself enforces.
        known: values to complete, for the model of a name; not all there are.
        several: whether there may be several, with commas between.
        check: refuses, with a `UserError`, what can be read and cannot be meant. Called for
            settings; what is typed or stands in a row is checked where it is used.
    """

    read: Callable[[object], Any]
    metavar: str = ""
    shell: type = str
    least: float | None = None
    most: float | None = None
    known: Callable[[str], Iterable[str]] = _nothing
    several: bool = False
    check: Callable[[str], object] | None = None


def text(value: object) -> str:
    """Text without control characters and without spaces at its ends."""
    if not isinstance(value, str):
        raise Unreadable("text")
    control = [c for c in value if not c.isprintable() and c in _CONTROL]
    if control:
        raise Unreadable(f"text without control characters, here {control[0]!r}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise Unreadable("text that is valid Unicode, no half of a pair of surrogates") from None
    return value.strip()


def text_or_count(value: object) -> str:
    """Text; a whole number counts as its digits."""
    return str(value) if whole_number(value) is not None else text(value)


def path(value: object) -> Path:
    """The path of a file or folder; ~ is the user's own."""
    if not isinstance(value, str) or not value.strip():
        raise Unreadable("the name of a file or folder", "name one, or leave it out")
    return Path(value).expanduser()


def flag(value: object) -> bool:
    """Yes or no."""
    word = str(value).casefold()
    if word not in _FLAGS:
        raise Unreadable("true or false", "true, or leave it out")
    return _FLAGS[word]


def whole_number(value: object) -> int | None:
    """A whole number, or None for what is none."""
    if isinstance(value, str) and re.fullmatch(r"\s*-?\d{1,30}\s*", value, re.ASCII):
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def whole(least: int, most: int | None = None, *, auto: bool = False) -> Kind:
    """Whole numbers from `least` to `most`; with `auto` also that word."""
    bounds = f"of at least {least}" if most is None else f"from {least} to {most}"
    rule = f"a whole number {bounds}" + (f", or {AUTO}" if auto else "")

    def read(value: object) -> int | str:
        if auto and value == AUTO:
            return AUTO
        number = whole_number(value)
        if number is None or number < least or (most is not None and number > most):
            raise Unreadable(rule)
        return number

    if auto:
        return Kind(read, "N", known=lambda _: (AUTO,))
    return Kind(read, "N", shell=int, least=least)


def share(value: object) -> float:
    """One number between 0 and 1."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise Unreadable("a number between 0 and 1")
    try:
        number = float(value)
    except (ValueError, OverflowError):
        number = math.nan
    if not 0 <= number <= 1:
        raise Unreadable("one number, a number between 0 and 1")
    return number


def numbers(value: object) -> float | tuple[float, ...]:
    """One number, or several: of JSON a list, of text with commas between."""
    rule = "one number, or one per scale, finite, with commas between"
    return _listed(value, _finite, rule, "3, or 1,2,3,3,3,3,3")


def layers(value: object) -> int | tuple[int, ...]:
    """One whole number, or several likewise."""
    rule = "whole numbers with commas between: 0 for the logits, or negative ones"
    return _listed(value, whole_number, rule, "0, or -1, or -1,-5")


def _finite(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


N = TypeVar("N", int, float)


def _listed(
    value: object, one: Callable[[object], N | None], rule: str, fix: str
) -> N | tuple[N, ...]:
    parts = value.split(",") if isinstance(value, str) else value
    whole_list = parts if isinstance(parts, list) else [parts]
    read = tuple(number for part in whole_list if (number := one(part)) is not None)
    if not read or len(read) < len(whole_list):
        raise Unreadable(rule, fix)
    return read[0] if len(read) == 1 else read


def one_of(*names: str, metavar: str = "NAME", words: str = "") -> Kind:
    """One of some names; `words` list them with what they mean."""

    def read(value: object) -> str:
        if value not in names:
            raise Unreadable(
                "one of " + (words or ", ".join(names)), close_matches(str(value), names)
            )
        return str(value)

    return Kind(read, metavar, known=lambda _: names)


def some_of(*names: str, metavar: str = "NAME", alone: str) -> Kind:
    """One or several of some names, with commas between, each once; a tuple. `alone` is one more
    name, which goes with no other."""
    rule = "one or several, with commas between, of " + ", ".join(names) + f"; or {alone} alone"

    def read(value: object) -> tuple[str, ...]:
        words = dict.fromkeys(word.strip() for word in str(value).split(","))
        for word in words:
            if word not in names and list(words) != [alone]:
                raise Unreadable(rule, close_matches(word, names))
        return tuple(words)

    known = (*names, alone)
    return Kind(read, f"{metavar}[,{metavar}...]", known=lambda _: known, several=True)


def pattern(
    form: str,
    metavar: str,
    rule: str,
    fix: str,
    known: Callable[[str], Iterable[str]] = _nothing,
) -> Kind:
    """Text that a regular expression matches whole."""

    def read(value: object) -> str:
        if not isinstance(value, str) or not re.fullmatch(form, value, re.ASCII):
            raise Unreadable(rule, fix)
        return value

    return Kind(read, metavar, known=known)
