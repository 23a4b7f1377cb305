"""What pictures are called: a template, and names that stay in their folder.

Knows names alone; nothing of what is in the folder.
"""

from __future__ import annotations

import os
import re
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from string import Formatter

from scalekv.cli.pictures.formats import FORMATS_BY_SUFFIX
from scalekv.kv.errors import UserError, close_matches

BATCH_TEMPLATE = "{index:05d}-{seed}-{slug}"
"""What names the pictures of a batch, without the suffix."""

SLUG_LENGTH = 40  # characters; at four bytes each a name stays far below the usual 255 bytes
MOST_NAME_BYTES = 200  # of 255 that file systems have, with room for suffixes

_WHOLE = re.compile(r"(0?\d{1,2})?d?")
_WORD = re.compile(r"(\.\d{1,2})?")
_FIELDS = {
    **dict.fromkeys(("index", "seed", "line", "image"), _WHOLE),
    **dict.fromkeys(("slug", "policy", "budget"), _WORD),
}
_SAMPLE = dict.fromkeys(_FIELDS, 1) | dict.fromkeys(("slug", "policy", "budget"), "x")
_OUR_OWN = re.compile(r"(manifest|report|retry)(-.*)?")
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?")
_RESERVED = '<>:"|?*'


class NameTemplate:
    """A checked template for the names of pictures, such as `BATCH_TEMPLATE`.

    Args:
        text: fields in braces, of index, seed, line, image, slug, policy and budget.
        suffixes: of the pictures; the text may end in one.

    Raises:
        UserError: an unknown field, a format that does not fit it, or names no file may have.
    """

    def __init__(self, text: str, suffixes: Sequence[str] = (".png",)) -> None:
        self.text = without_suffix(text, suffixes)
        try:
            parts = list(Formatter().parse(self.text))
        except ValueError as error:
            raise self._refusal(str(error)) from None
        for _, field, spec, conversion in parts:
            if field is None:
                continue
            if field not in _FIELDS:
                raise self._refusal(f"unknown field {field!r}", close_matches(field, _FIELDS))
            if conversion or not _FIELDS[field].fullmatch(spec or ""):
                raise self._refusal(f"{field} cannot be written as {spec!r}")
        wrong = broken_rule(self.text.format(**_SAMPLE))
        if wrong:
            raise self._refusal(wrong)

    def name(
        self,
        words: str,
        *,
        index: int,
        seed: int,
        line: int,
        image: int,
        policy: object,
        budget: object,
    ) -> str:
        """A picture's name without the suffix.

        Args:
            words: its prompt as `slug` has it.
            index, image: its place among all, and among those of its prompt, from 0.
            line: of its prompt in the file, or the prompt's place among the arguments, from 1.
        """
        return self.text.format(
            index=index,
            seed=seed,
            line=line,
            image=image,
            slug=words,
            policy=_part(policy),
            budget=_part(budget),
        )

    def _refusal(self, what: str, fix: str = "") -> UserError:
        return UserError(
            f"the template {self.text!r} names no files: {what}",
            where="--name",
            rule="a file name with the fields " + ", ".join(f"{{{name}}}" for name in _FIELDS),
            fix=fix or f"--name '{BATCH_TEMPLATE}'",
        )


def slug(text: str) -> str:
    """A short file name part that reminds of the text: letters with their marks, digits and
    hyphens."""
    letters = _letters(text.casefold())
    if not letters.isascii():
        letters = "".join(filter(_can_be_in_a_name, letters))
    words = re.sub("-+", "-", letters).strip("-")
    if len(words) > SLUG_LENGTH:
        whole_words = words[: SLUG_LENGTH + 1].rpartition("-")[0]
        long_enough = len(whole_words) >= SLUG_LENGTH // 2
        words = whole_words if long_enough else words[:SLUG_LENGTH].strip("-")
    return words or "picture"


def _can_be_in_a_name(character: str) -> bool:
    """False where file names are in an encoding that lacks it, as in the POSIX locale."""
    try:
        os.fsencode(character)
    except UnicodeEncodeError:
        return False
    return True


def _letters(text: str) -> str:
    """The text with hyphens for what is no part of a word. Vowel signs, of Hindi and Arabic, are
    marks (M) and belong to the letter before; joiners (Cf) have no width and mean nothing here."""
    if text.isascii():
        return re.sub(r"[\W_]", "-", text)
    out: list[str] = []
    for character in unicodedata.normalize("NFC", text):
        kind = unicodedata.category(character)
        if kind[0] in "LN" or (kind[0] == "M" and out and out[-1] != "-"):
            out.append(character)
        elif kind != "Cf":
            out.append("-")
    return "".join(out)


def _part(value: object) -> str:
    """A policy or a budget as a part of a name: of a file's path its stem."""
    return re.sub(r"[^\w.%-]+", "-", Path(str(value).rpartition(":")[2]).name).strip("-.") or "x"


def numbered(stem: str) -> Iterator[str]:
    """STEM, STEM-2, STEM-3 and so on without end."""
    yield stem
    yield from (f"{stem}-{number}" for number in count(2))


def without_suffix(name: str, suffixes: Sequence[str] = (".png",)) -> str:
    """The name without one of its pictures' suffixes, whether it had one or not."""
    for suffix in suffixes:
        if name.casefold().endswith(suffix):
            return name[: -len(suffix)]
    return name


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
    if Path(name).suffix.casefold() in FORMATS_BY_SUFFIX:
        return "a name ends in the suffix of the pictures' format (--format), or in none"
    if _OUR_OWN.fullmatch(name.casefold()):
        return "manifest, report and retry are names of files that scalekv writes"
    if _DEVICES.fullmatch(name.casefold()):
        return "the name is that of a device on some systems"
    return ""


def same_file(name: str) -> str:
    """What two names have in common that some file systems take for one."""
    return unicodedata.normalize("NFC", name).casefold()
