"""Wildcards in prompts: `{red|blue} fox` and `__animal__`, drawn from a seed.

Knows texts and files of lines; nothing of models. Which word is drawn depends on the seed, the
template and the lists alone, on every machine.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from random import Random

from scalekv.cli.batch.rows import shown
from scalekv.kv.errors import UserError, close_matches

OFF, ON = "off", "on"
MOST_BYTES = 2**24  # of a list
DEEPEST = 20  # lists inside lists, and braces inside braces

_LIST = re.compile(r"__([\w-]+(?:/[\w-]+)*?)__")
_WEIGHT = re.compile(r"\s*(\d+(?:\.\d+)?)::")
_SPECIAL = "\\{}|_"
_LIKE_ONE = re.compile(r"\{[^{}]*\|[^{}]*\}|" + _LIST.pattern)

Template = tuple["str | Alternatives | ListName", ...]
"""Parts of a prompt, in their order."""


@dataclass(frozen=True)
class Alternatives:
    """One of some templates, each as likely as its weight says."""

    weights: tuple[float, ...]
    templates: tuple[Template, ...]


@dataclass(frozen=True)
class ListName:
    """A line of a list."""

    name: str


class BadTemplate(Exception):
    """A prompt that is no template: what is wrong with it, the rule and the fix."""

    def __init__(self, what: str, rule: str, fix: str = "") -> None:
        super().__init__(what)
        self.what, self.rule, self.fix = what, rule, fix

    def at(self, where: str) -> UserError:
        """The refusal, with its place."""
        return UserError(self.what, where=where, rule=self.rule, fix=self.fix)


@dataclass
class Wildcards:
    """Draws prompts from templates. `folder` has the lists, NAME.txt each; None: there are none."""

    folder: Path | None = None
    _lists: dict[str, tuple[Template, ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, asked: str, where: str) -> Wildcards | None:
        """Those that --wildcards asks for; None: prompts are taken as they stand.

        Raises:
            UserError: it names no folder.
        """
        if asked in (OFF, ON):
            return None if asked == OFF else cls()
        folder = Path(asked).expanduser()
        if not folder.is_dir():
            raise UserError(
                f"there is no folder {asked}",
                where=where,
                rule="on, off, or a folder of lists: __animal__ is a line of DIR/animal.txt",
                fix="--wildcards on where no prompt names a list",
            )
        return cls(folder)

    def draw(self, template: str, seed: int) -> str:
        """The prompt that a seed draws; the same seed always draws the same.

        Raises:
            BadTemplate: the text is no template, or a list that it names is not there.
        """
        random = Random(f"wildcards {seed}")
        # Random.random is what Python promises to keep for a seed; choices and the like it is not.
        drawn = self._drawn(_Parser(template).template, random.random, 0).strip()
        if not drawn:
            raise BadTemplate(
                f"nothing is left of the prompt {shown(template)} with seed {seed}",
                "a prompt has at least one word, whatever is drawn",
            )
        return drawn

    def _drawn(self, parts: Template, uniform: Callable[[], float], depth: int) -> str:
        words = []
        for part in parts:
            match part:
                case str():
                    words.append(part)
                case Alternatives():
                    chosen = part.templates[_place(part.weights, uniform())]
                    words.append(self._drawn(chosen, uniform, depth))
                case ListName():
                    if depth == DEEPEST:
                        raise BadTemplate(
                            f"the list {part.name} leads back to itself",
                            f"lists name one another at most {DEEPEST} deep",
                        )
                    lines = self._list(part.name)
                    chosen = lines[int(uniform() * len(lines))]
                    words.append(self._drawn(chosen, uniform, depth + 1))
        return "".join(words)

    def _list(self, name: str) -> tuple[Template, ...]:
        if name not in self._lists:
            self._lists[name] = self._read(name)
        return self._lists[name]

    def _read(self, name: str) -> tuple[Template, ...]:
        if self.folder is None:
            raise BadTemplate(
                f"the prompt names the list __{name}__, and there is no folder of lists",
                "__animal__ is a line of DIR/animal.txt",
                r"--wildcards DIR; \__ is two underscores as they stand",
            )
        path = self.folder / f"{name}.txt"
        try:
            with path.open("rb") as file:
                text = file.read(MOST_BYTES).decode("utf-8-sig")
        except FileNotFoundError:
            known = [p.relative_to(self.folder).with_suffix("").as_posix() for p in self._files()]
            raise BadTemplate(
                f"there is no list {path}",
                "lists here: " + (", ".join(known[:20]) or "none"),
                close_matches(name, known) or r"\__ is two underscores as they stand",
            ) from None
        except (OSError, UnicodeDecodeError) as error:
            raise BadTemplate(f"cannot read the list {path}: {error}", "UTF-8 text") from None
        lines = [line.strip() for line in text.splitlines()]
        kept = [line for line in lines if line and not line.startswith("#")]
        if not kept:
            raise BadTemplate(f"the list {path} is empty", "one entry a line")
        return tuple(_Parser(line).template for line in kept)

    def _files(self) -> list[Path]:
        assert self.folder is not None
        return sorted(self.folder.rglob("*.txt"))


def looks_like_template(prompt: str) -> bool:
    """Whether something would be drawn in a prompt if wildcards were on."""
    return _LIKE_ONE.search(prompt) is not None


def escaped(prompt: str) -> str:
    """A template that draws exactly this prompt."""
    return "".join("\\" + c if c in _SPECIAL else c for c in prompt)


def _place(weights: tuple[float, ...], share: float) -> int:
    """Which of the weighted places a share between 0 and 1 falls to."""
    ends = list(accumulate(weights))
    within = (place for place, end in enumerate(ends) if share * ends[-1] < end)
    return next(within, len(ends) - 1)  # a product may be rounded up to the end of the last


class _Parser:
    """Reads a template once, from left to right."""

    def __init__(self, text: str) -> None:
        self.text, self.place, self.depth = text, 0, 0
        self.template = self._sequence(inside=False)

    def _sequence(self, *, inside: bool) -> Template:
        """Parts up to the end, or inside braces up to what ends an alternative."""
        parts: list[str | Alternatives | ListName] = []
        plain = ""
        while self.place < len(self.text):
            here = self.text[self.place]
            if here == "\\" and self.text[self.place + 1 : self.place + 2] in tuple(_SPECIAL):
                plain += self.text[self.place + 1]
                self.place += 2
                continue
            if inside and here in "|}":
                break
            if here == "}":
                raise self._refusal("} closes nothing")
            named = _LIST.match(self.text, self.place)
            if here != "{" and named is None:
                plain += here
                self.place += 1
                continue
            parts += [plain] * bool(plain)
            plain = ""
            if named is None:
                parts.append(self._choice())
            else:
                parts.append(ListName(named[1]))
                self.place = named.end()
        parts += [plain] * bool(plain)
        return tuple(parts)

    def _choice(self) -> Alternatives:
        weights, templates = [], []
        self.depth += 1
        if self.depth > DEEPEST:
            raise self._refusal(f"braces are more than {DEEPEST} deep")
        while True:
            self.place += 1  # { or |
            weight = _WEIGHT.match(self.text, self.place)
            if weight is not None:
                self.place = weight.end()
            weights.append(1.0 if weight is None else float(weight[1]))
            templates.append(self._sequence(inside=True))
            if self.place == len(self.text):
                raise self._refusal("{ is not closed")
            if self.text[self.place] == "}":
                break
        self.place += 1
        self.depth -= 1
        if not sum(weights):
            raise self._refusal("all weights are 0")
        return Alternatives(tuple(weights), tuple(templates))

    def _refusal(self, what: str) -> BadTemplate:
        return BadTemplate(
            f"{what} in the prompt {shown(self.text)}",
            "with --wildcards {red|blue} is one of the two, {3::red|blue} red three times in four",
            r"\{ \} and \| are the characters as they stand, or leave out --wildcards",
        )
