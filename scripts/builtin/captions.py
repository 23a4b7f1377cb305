"""What a drawing is called, in many ways; and which drawings no training may see.

Knows rows of the data set's index and words; nothing of pixels or models. A row needs `concept`,
`style`, `heldout_concept` and `heldout_style`; what users may type for the concept beyond its
name stands in names.yaml, what is held out in heldout.yaml.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml

Row = dict[str, Any]

HELD_OUT_FILE = Path(__file__).with_name("heldout.yaml")
NAMES_FILE = Path(__file__).with_name("names.yaml")

STYLE_PHRASES = {
    "flat": "flat style",
    "noto": "shaded style",
    "fluent": "smooth style",
    "noto-v1": "old style",
}
FIRST_STYLES = ("flat", "noto")  # that every concept has, that are held out of, and asked for
SAME_HAND = {"fluent": "flat", "noto-v1": "noto"}  # whose drawings are much like those of which
# A prompt without a style means the flat one: its captions drop the phrase half of the time.
STYLE_DROPPED = {"flat": 0.5, "noto": 0.1, "fluent": 0.1, "noto-v1": 0.1}
ALIAS_USED = 0.35
ARTICLE_USED = 0.45
WRAPPED = 0.1

WRAPPERS = (
    "{name} emoji",
    "{name} icon",
    "a drawing of {a}",
    "a picture of {a}",
    "an emoji of {a}",
    "an icon of {a}",
)
# How the style joins the name, with the weight of each way. `{a}` is the name behind its article,
# if it has one; in `{style} {name}` the article moves before the style.
STYLED = (
    ("{a}, {style}", 0.4),
    ("{a} in {style}", 0.2),
    ("{style} {name}", 0.25),
    ("{style}, {a}", 0.15),
)


@dataclass(frozen=True)
class Names:
    """names.yaml: which emoji become concepts, and the words for them."""

    dropped_subgroups: frozenset[str]
    dropped: frozenset[str]
    renamed: dict[str, str]
    aliases: dict[str, tuple[str, ...]]
    unique: frozenset[str]  # take "the"
    bare: frozenset[str]  # take no article

    def check(self, concepts: set[str]) -> None:
        """Refuses words for nothing, and words for two concepts.

        Args:
            concepts: every concept of the data set.

        Raises:
            ValueError: names the entries that are wrong.
        """
        words = Counter(concepts)
        words.update(word for aliases in self.aliases.values() for word in aliases)
        wrong = self.aliases.keys() - concepts
        wrong |= {word for word, times in words.items() if times > 1}
        wrong |= (self.unique | self.bare) - words.keys()
        if wrong:
            raise ValueError(f"names of no concept or of two: {', '.join(sorted(wrong))}")


@cache
def load_names(path: Path = NAMES_FILE) -> Names:
    """Reads the committed names."""
    listed = yaml.safe_load(path.read_text(encoding="utf-8"))
    return Names(
        dropped_subgroups=frozenset(listed["dropped_subgroups"]),
        dropped=frozenset(listed["dropped"]),
        renamed=dict(listed["renamed"]),
        aliases={concept: tuple(words) for concept, words in listed["aliases"].items()},
        unique=frozenset(listed["unique"]),
        bare=frozenset(listed["bare"]),
    )


@dataclass(frozen=True)
class HeldOut:
    """What no training sees: whole concepts, and single styles of others."""

    concepts: frozenset[str]
    styles: frozenset[tuple[str, str]]  # (concept, style)

    def style_of(self, concept: str, style: str) -> bool:
        """Whether a concept's drawing in one style is held out, or the one that it is much like."""
        return (concept, SAME_HAND.get(style, style)) in self.styles

    def check(self, concepts: set[str], styles: set[str]) -> None:
        """Refuses an entry that would hold nothing out.

        Args:
            concepts: every concept of the data set.
            styles: every style of the data set.

        Raises:
            ValueError: names the entries that are wrong.
        """
        unknown = self.concepts - concepts
        unknown |= {
            f"{concept} ({style})"
            for concept, style in self.styles
            if concept not in concepts or style not in styles
        }
        if unknown:
            raise ValueError(f"held out, but not in the data set: {', '.join(sorted(unknown))}")
        singles = Counter(concept for concept, _ in self.styles)
        twice = self.concepts & singles.keys()
        twice |= {concept for concept, times in singles.items() if times == len(styles)}
        if twice:
            raise ValueError(
                f"hold these out as concepts, not by style: {', '.join(sorted(twice))}"
            )


def load_heldout(path: Path = HELD_OUT_FILE) -> HeldOut:
    """Reads the committed list of held-out names."""
    listed = yaml.safe_load(path.read_text(encoding="utf-8"))
    return HeldOut(
        concepts=frozenset(listed["concepts"]),
        styles=frozenset(
            (concept, style) for style, concepts in listed["styles"].items() for concept in concepts
        ),
    )


@dataclass(frozen=True)
class Combinations:
    """Compositions no training draws, of concepts it may see."""

    pairs: frozenset[frozenset[str]]
    backgrounds: frozenset[tuple[str, str]]  # (concept, colour)


def compositions_held_out(
    path: Path = HELD_OUT_FILE,
) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """The committed list of held-out compositions: pairs of concepts, (concept, colour)."""
    listed = yaml.safe_load(path.read_text(encoding="utf-8"))["combinations"]
    return [(a, b) for a, b in listed["pairs"]], [(a, b) for a, b in listed["backgrounds"]]


def load_combinations(path: Path = HELD_OUT_FILE) -> Combinations:
    """The held-out compositions as a training asks for them."""
    pairs, backgrounds = compositions_held_out(path)
    return Combinations(frozenset(frozenset(pair) for pair in pairs), frozenset(backgrounds))


def is_held_out(row: Row) -> bool:
    """Whether no training may see this row."""
    return bool(row["heldout_concept"] or row["heldout_style"])


def training_rows(rows: Iterable[Row]) -> list[Row]:
    """The rows a training may see, in their order."""
    return [row for row in rows if not is_held_out(row)]


def heldout_rows(rows: Iterable[Row]) -> list[Row]:
    """The rows no training may see, in their order: what an evaluation asks for."""
    return [row for row in rows if is_held_out(row)]


def prompt(row: Row) -> str:
    """The plainest wording that names the row's concept and style."""
    return f"{with_article(row['concept'])}, {STYLE_PHRASES[row['style']]}"


def words_for(concept: str) -> tuple[str, ...]:
    """The concept's name, then its aliases."""
    return (concept, *load_names().aliases.get(concept, ()))


# Words that end like plurals but are not.
SINGULAR_S = re.compile(r"(ss|us|is|ceros|gas|lens|canvas)$")
PLURAL = frozenset({"people", "men", "women", "teeth", "feet", "dice", "mice", "skis"})
# Where the head of a name ends: what follows only describes it.
AFTER_HEAD = re.compile(
    r" (?:and|with|without|of|in|on|behind|at|that|covering|holding|lifting|showing|pointing) "
)
AN = re.compile(r"(?!uni|ufo|us[ei]|eu|ewe|one)[aeiou]|hour|x-ray|suv\b")


def article(name: str) -> str:
    """The article a name takes, with its blank, or nothing: "a ", "an ", "the "."""
    names = load_names()
    if name in names.unique:
        return "the "
    head = AFTER_HEAD.split(name, maxsplit=1)[0]
    last = head.split()[-1]
    plural = last in PLURAL or (last.endswith("s") and not SINGULAR_S.search(last))
    if name in names.bare or plural:
        return ""
    return article_before(name)


def article_before(text: str) -> str:
    """ "a " or "an ", whichever the text's first sound asks for."""
    return "an " if AN.match(text) else "a "


def with_article(name: str) -> str:
    """The name behind its article, if it takes one."""
    return article(name) + name


def compose(name: str, style: str | None, *, articled: bool, form: str, wrapper: str | None) -> str:
    """One caption from its parts.

    Args:
        name: the wording for the concept, without article.
        style: the style phrase, or None to leave it out.
        articled: whether the name gets its article, if it takes one.
        form: one of STYLED's templates; not read without a style.
        wrapper: one of WRAPPERS, or None.
    """
    own = article(name) if articled else ""
    if wrapper is not None and wrapper.startswith("{name}"):  # "a cat emoji", also "a poo emoji"
        name = wrapper.format(name=name)
        own = article_before(name) if articled else ""
    elif wrapper is not None:  # "an icon of a cat": begins with the wrapper's own article
        own, name = "", wrapper.format(a=with_article(name))
        form = form.replace("{style} {name}", "{a}, {style}")
    if style is None:
        return own + name
    if form == "{style} {name}":
        return f"{article_before(style) if own else ''}{style} {name}"
    return form.format(a=own + name, style=style)


def caption(row: Row, rng: np.random.Generator) -> str:
    """One of the ways to ask for this row's drawing.

    Always draws the same number of values from `rng`, so that captions do not depend on one
    another's wording.
    """
    chance = rng.random(7)
    names = words_for(row["concept"])
    name = names[0]
    if len(names) > 1 and chance[0] < ALIAS_USED:
        name = names[1 + int(chance[1] * (len(names) - 1))]
    style: str | None = STYLE_PHRASES[row["style"]]
    if chance[2] < STYLE_DROPPED[row["style"]]:
        style = None
    form = chosen(STYLED, chance[3])
    wrapper = WRAPPERS[int(chance[5] * len(WRAPPERS))] if chance[4] < WRAPPED else None
    return compose(name, style, articled=bool(chance[6] < ARTICLE_USED), form=form, wrapper=wrapper)


def chosen(weighted: Sequence[tuple[str, float]], chance: float) -> str:
    """The one of some weighted forms that a number from 0 to 1 falls on."""
    bounds = np.cumsum([weight for _, weight in weighted])
    return weighted[int(np.searchsorted(bounds[:-1], chance, side="right"))][0]


def captions_of(row: Row) -> Iterator[str]:
    """The captions of a row: every one without a wrapper, and each wrapper around each name."""
    style = STYLE_PHRASES[row["style"]]
    for name in words_for(row["concept"]):
        for articled in (False, True):
            yield compose(name, None, articled=articled, form="", wrapper=None)
            for form, _ in STYLED:
                yield compose(name, style, articled=articled, form=form, wrapper=None)
        for wrapper in WRAPPERS:
            yield compose(name, None, articled=True, form="", wrapper=wrapper)


def all_texts(rows: Iterable[Row]) -> list[str]:
    """Captions and keywords of these rows, each once, in a fixed order.

    Held-out rows belong in here: their words are no secret, only their pictures are.
    """
    return list(
        dict.fromkeys(text for row in rows for text in (*captions_of(row), *row.get("tags", ())))
    )
