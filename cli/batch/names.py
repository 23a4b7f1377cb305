"""What the pictures of a batch are called: a template, and names that stay in their folder.

Knows names alone; nothing of what is in the folder.
"""

from __future__ import annotations

import os
import re
import sys
import unicodedata
from string import Formatter

from scalekv.kv.errors import UserError

TEMPLATE = "{index:05d}-{seed}-{slug}"
"""Without the suffix."""

SUFFIX = ".png"
MOST_NAME_BYTES = 200  # of 255 that file systems have, with room for suffixes

_WHOLE = re.compile(r"(0?\d{1,2})?d?")
_FIELDS = {
    "index": _WHOLE,
    "seed": _WHOLE,
    "line": _WHOLE,
    "image": _WHOLE,
    "slug": re.compile(r"(\.\d{1,2})?"),
}
_OUR_OWN = re.compile(r"(manifest|report|retry)(-.*)?")
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?")
_RESERVED = '<>:"|?*'


class NameTemplate:
    """A checked template for the names of pictures, such as `TEMPLATE`.

    Args:
        text: fields in braces, of index, seed, line, image and slug; with or without ".png".

    Raises:
        UserError: an unknown field, a format that does not fit it, or names no file may have.
    """

    def __init__(self, text: str) -> None:
        self.text = without_suffix(text)
        try:
            parts = list(Formatter().parse(self.text))
        except ValueError as error:
            raise self._refusal(str(error)) from None
        for _, field, spec, conversion in parts:
            if field is None:
                continue
            if field not in _FIELDS:
                raise self._refusal(f"unknown field {field!r}")
            if conversion or not _FIELDS[field].fullmatch(spec or ""):
                raise self._refusal(f"{field} cannot be written as {spec!r}")
        wrong = broken_rule(self.name(index=0, seed=0, line=1, image=0, slug="x"))
        if wrong:
            raise self._refusal(wrong)

    def name(self, *, index: int, seed: int, line: int, image: int, slug: str) -> str:
        """A picture's name without the suffix."""
        return self.text.format(index=index, seed=seed, line=line, image=image, slug=slug)

    def _refusal(self, what: str) -> UserError:
        return UserError(
            f"the template {self.text!r} names no files: {what}",
            where="--name",
            rule="a file name with the fields " + ", ".join(f"{{{name}}}" for name in _FIELDS),
            fix=f"--name '{TEMPLATE}'",
        )


def without_suffix(name: str) -> str:
    """The name without ".png", whether it had it or not."""
    return name[: -len(SUFFIX)] if name.casefold().endswith(SUFFIX) else name


def broken_rule(name: str) -> str:
    """Why a name (without suffix) is no plain file name everywhere; "" if it is one."""
    if not name.strip():
        return "a name is not empty"
    if "/" in name or "\\" in name:
        return "a name has no folders: / and \\ are not allowed"
    if name.startswith("."):
        return "a name does not start with a dot"
    if not name.isprintable():
        return "a name has no control characters"
    if any(character in _RESERVED for character in name):
        return f"a name has none of {_RESERVED}"
    if name != name.strip() or name.endswith("."):
        return "a name has no space at its ends and no dot at its end"
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        encoding = sys.getfilesystemencoding()
        return f"a name has only characters that file names have here ({encoding}, by the locale)"
    if len(name.encode(errors="replace")) > MOST_NAME_BYTES:
        return f"a name has at most {MOST_NAME_BYTES} bytes"
    if _OUR_OWN.fullmatch(name.casefold()):
        return "manifest, report and retry are names of files that scalekv writes"
    if _DEVICES.fullmatch(name.casefold()):
        return "the name is that of a device on some systems"
    return ""


def same_file(name: str) -> str:
    """What two names have in common that some file systems take for one."""
    return unicodedata.normalize("NFC", name).casefold()
