"""Names in the midst of words that name nothing: "my little fox by the window".

So that a prompt in words of a user's own is still about what it names. Knows words; nothing of
drawings or models. What an evaluation asks for (free_prompts.txt) is never drawn.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from scripts.builtin.captions import (
    STYLE_DROPPED,
    Row,
    article_before,
    chosen,
    with_article,
    words_for,
)
from scripts.evaluate.prompts import free_prompts

OPENERS = (
    ("{a}", 0.3),
    ("{filler}", 0.35),  # with fillers between the article and the name
    ("the {name}", 0.08),
    ("my {name}", 0.05),
    ("that {name}", 0.05),
    ("this {name}", 0.04),
    ("show me {a}", 0.04),
    ("something like {a}", 0.03),
    ("draw {a}", 0.03),
    ("{name}, {name}", 0.03),
)
ARTICLES = ("a", "the", "my", "some", "that", "")
TAILS = (
    "for",
    "near",
    "by the",
    "under the",
    "with",
    "from the",
    "that is",
    "who is",
    "at the",
    "in",
)
TAILED = 0.55
STYLES = {
    "flat": ("flat style", "in flat style", "flat", "made flat", "with flat shapes"),
    "noto": ("shaded style", "in shaded style", "shaded", "with shades", "made with shades"),
    "fluent": ("smooth style", "in smooth style", "smooth", "made smooth", "with smooth shades"),
    "noto-v1": ("old style", "in old style", "old", "made old", "in the old style"),
}
FILLERS = tuple(Path(__file__).with_name("fillers.txt").read_text(encoding="utf-8").split())
HELD_OUT = frozenset(free_prompts())
NONSENSE = 0.25  # of the fillers


class Wordings:
    """Draws wordings that name one drawing: "large" goes with a cat, not with a diamond, of which
    there are large and small ones."""

    def __init__(self, rows: Iterable[Row]):
        self._beside = {filler: set[str]() for filler in FILLERS}  # words of names that have it too
        for row in rows:
            for name in words_for(row["concept"]):
                words = _words(name)
                for filler in words & self._beside.keys():
                    self._beside[filler] |= words

    def draw(self, row: Row, rng: np.random.Generator) -> str:
        """One wording for this row's drawing."""
        while (text := self._drawn(row, rng)) in HELD_OUT:
            pass
        return text

    def _drawn(self, row: Row, rng: np.random.Generator) -> str:
        names = words_for(row["concept"])
        name = names[int(rng.random() ** 2 * len(names))]
        opener = chosen(OPENERS, rng.random())
        if opener == "{filler}":
            text = self._behind_fillers(name, rng)
        else:
            text = opener.format(a=with_article(name), name=name)
        if rng.random() < TAILED:
            tail = TAILS[int(rng.random() * len(TAILS))]
            text += f" {tail} {self._fillers(name, rng)}"
        styles = STYLES[row["style"]]
        if rng.random() >= STYLE_DROPPED[row["style"]]:
            text += ", " + styles[int(rng.random() ** 2 * len(styles))]
        return text

    def _behind_fillers(self, name: str, rng: np.random.Generator) -> str:
        fillers = self._fillers(name, rng)
        own = ARTICLES[int(rng.random() * len(ARTICLES))]
        if own == "a":
            own = article_before(fillers).strip()
        return f"{own} {fillers} {name}".strip()

    def _fillers(self, name: str, rng: np.random.Generator) -> str:
        """One or two words that make no other name of this one."""
        own = _words(name)
        allowed = [word for word, beside in self._beside.items() if not beside & own]
        return " ".join(
            _nonsense(rng) if rng.random() < NONSENSE else allowed[int(rng.random() * len(allowed))]
            for _ in range(1 + int(rng.random() * 2))
        )


def _words(name: str) -> set[str]:
    return set(re.findall(r"[a-z]+", name.lower()))


def _nonsense(rng: np.random.Generator) -> str:
    """A word of two or three syllables that means nothing."""
    consonants, vowels = "bdfgklmnprstvwz", "aeiou"
    return "".join(
        letters[int(rng.random() * len(letters))]
        for _ in range(2 + int(rng.random() * 2))
        for letters in (consonants, vowels)
    )
