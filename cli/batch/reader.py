"""The values of rows, read against what holds for all: what each row asks for, settled, and the
mark of everything that makes its pictures what they are.

Knows requests; reads no weights and touches no folder.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from itertools import product
from math import prod
from typing import Any

from scalekv.cli.batch.rows import Problem, Row, shown
from scalekv.cli.batch.sweep import alternatives
from scalekv.cli.choices import Choices, policy_and_budget, ratio_and_pixels
from scalekv.cli.generate.destination import writing_of
from scalekv.cli.pictures.names import broken_rule, without_suffix
from scalekv.configs.option import Owner
from scalekv.configs.options import COLUMNS
from scalekv.configs.settings import Setting, Source
from scalekv.configs.values import AUTO, Unreadable, seeds, text
from scalekv.infinity_patch.asked.request import Request
from scalekv.infinity_patch.asked.settled import Settled, settle
from scalekv.kv.errors import UserError
from scalekv.kv.policies.registry import stores

MOST_SETTINGS = 10_000  # of a row

_EACH = {"prompts", "seed", "seeds", "num_images"}
_NOT_THE_PICTURE = {"batch_size", "reproducible"}
_OWN = COLUMNS.keys() - _EACH
"""Columns that make a row's settings others than those of the options."""
SETTINGS_OF_ROWS = [n for n in COLUMNS if COLUMNS[n].owner is Owner.REQUEST and n in _OWN]


@dataclass(frozen=True)
class Checked:
    """A row whose values were read: what is its own, and the settings of its pictures, which are
    drawn under each of them with the same seeds.

    seeds: of its pictures where it names them; of the first where it names one; () where none.
    """

    line: int
    prompt: str
    seeds: tuple[int, ...]
    count: int
    name: str | None
    settled: tuple[Settled, ...]
    notes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def pictures(self) -> int:
        """How many there are."""
        return self.count * len(self.settled)

    def seed_of(self, image: int) -> int | None:
        """The seed of picture `image` under one setting; None: it has none of its own."""
        if not self.seeds:
            return None
        return self.seeds[image] if len(self.seeds) > 1 else self.seeds[0] + image


def problem_of(line: int, error: UserError) -> Problem:
    """A refusal as a problem of a row."""
    place = error.where.removeprefix("--")
    named = f"{place}: {error.what}" if place and place not in error.what else error.what
    return Problem(line, named, error.rule, error.fix)


def mark(parts: object) -> str:
    """The same for equal parts, and no others."""
    text = json.dumps(parts, ensure_ascii=True, sort_keys=True, default=repr)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


class Reader:
    """Reads rows against the choices that hold for all."""

    def __init__(self, choices: Choices, device: str) -> None:
        self.choices = choices
        self.device = device
        self._suffixes = writing_of(choices).suffixes
        self._readers: dict[str, Callable[[object], Any]] = {
            "prompt": _prompt,
            **{name: row.kind.read for name, row in COLUMNS.items()},
            "seed": seeds(at_random=False).read,
            "name": self._name,
        }
        self.base = choices.request.in_common
        self._settled = lru_cache(maxsize=None)(self._settle)
        self._marks: dict[Request, str] = {}

    def row(self, row: Row, problems: list[Problem]) -> Checked | None:
        """The row's values; None and problems where they cannot be used."""
        read = {name: self._alternatives(row, name, problems) for name in row.values}
        bad = not all(read.values())
        if "prompt" not in row.values:
            problems.append(Problem(row.line, "the prompt is missing", "every row has one"))
            bad = True
        read = {name: values for name, values in read.items() if values}
        count, seeds_of_row = self._count(row, read, problems)
        swept = {name: values for name, values in read.items() if name in _OWN}
        if (many := prod(map(len, swept.values()))) > MOST_SETTINGS:
            what = f"{many:,} settings are asked for in one row"
            problems.append(Problem(row.line, what, f"at most {MOST_SETTINGS:,}", "split the row"))
            return None
        settled: list[Settled] = []
        for values in product(*swept.values()):
            try:
                one = self._settled(self._settings(dict(zip(swept, values, strict=True))))
            except UserError as error:
                one = error
            if isinstance(one, Settled):
                settled.append(one)
            elif (problem := problem_of(row.line, one)) not in problems[-len(swept) - 1 :]:
                problems.append(problem)
                bad = True
        if bad or not count:
            return None
        name = read.get("name", [None])[0]
        prompt = read["prompt"][0]
        return Checked(row.line, prompt, seeds_of_row, count, name, tuple(settled), row.notes)

    def _alternatives(self, row: Row, name: str, problems: list[Problem]) -> list[Any]:
        """The values of a column; [] and problems where one cannot be read."""
        values, bad = [], False
        for value in alternatives(name, row.values[name]):
            try:
                values.append(self._readers[name](value))
            except Unreadable as error:
                what = f"{name} is {shown(value)}"
                problems.append(Problem(row.line, what, error.rule, error.fix))
                bad = True
        return [] if bad else values

    def _count(
        self, row: Row, read: Mapping[str, list[Any]], problems: list[Problem]
    ) -> tuple[int, tuple[int, ...]]:
        """How many pictures a row asks for under one setting, and the seeds it names; 0 and a
        problem where the two do not go together."""
        asked = read.get("num_images", [None])[0]
        own = read.get("seed", [()])[0]
        named = own if isinstance(own, tuple) else (own,)
        listed = named if len(named) > 1 else () if named else self.choices.seeds.listed
        if asked is not None and listed and asked > len(listed):
            what = f"{asked} pictures and {len(listed)} seeds"
            rule = "named seeds say how many pictures there are, or num_images takes the first"
            problems.append(Problem(row.line, what, rule, "leave out num_images"))
            return 0, ()
        return asked or len(listed) or self.choices.each, named

    def _name(self, value: object) -> str:
        if not isinstance(value, str):
            raise Unreadable("text")
        name = without_suffix(value, self._suffixes)
        wrong = broken_rule(name)
        if wrong:
            raise Unreadable(wrong)
        return name

    def _settings(self, read: Mapping[str, Any]) -> Request:
        if not read.keys() & _OWN:
            return self.base
        settings = replace(
            self.base, **{name: read[name] for name in SETTINGS_OF_ROWS if name in read}
        )

        def as_setting(name: str, otherwise: object) -> Setting:
            if name in read:
                return Setting(name, str(read[name]), Source.OPTION, "this row")
            return Setting(name, str(otherwise or ""), Source.DEFAULT, "the options")

        if "policy" in read or "budget" in read:
            policy, budget = policy_and_budget(
                as_setting("policy", settings.policy), as_setting("budget", settings.budget)
            )
            settings = replace(settings, policy=policy, budget=budget)
        if "size" in read:
            ratio, pixels = ratio_and_pixels(
                as_setting("size", None),
                as_setting("ratio", settings.ratio),
                as_setting("pixels", settings.pixels),
                self.choices.preset,
            )
            settings = replace(settings, ratio=ratio, pixels=pixels)
        return settings

    def _settle(self, settings: Request) -> Settled | UserError:
        try:
            return settle(settings, self.choices.preset, self.device, self.choices.dtype)
        except UserError as error:
            return error

    def mark_of(self, settled: Settled) -> str:
        """Of everything but prompt and seed; what the preset fills in counts as if it were said."""
        if settled.request not in self._marks:
            self._marks[settled.request] = self._mark_of(settled)
        return self._marks[settled.request]

    def _mark_of(self, settled: Settled) -> str:
        settings = settled.request
        budget: object = [settings.budget, settings.batch_size]  # bytes are for a batch together
        if not settled.read.in_bytes:
            # a share of the history is also so many tokens, but for methods that count bytes
            share = settled.asked.percent if stores(settled.policy_name) else None
            budget = repr(replace(settled.asked, label="", origin="", percent=share))
        presets_own = (settled.preset.sampling.cfg_layer,)
        facts = {
            entry.name: getattr(settings, entry.name)
            for entry in fields(settings)
            if entry.name not in _EACH | _NOT_THE_PICTURE
        }
        facts |= {
            "model": settled.preset.name,
            "dtype": [self.choices.dtype, self.choices.placement.text_dtype],
            "pixels": str(settled.picture),
            "budget": budget,
            "cfg": settled.cfg,
            "cfg_layer": None if settled.cfg_layers == presets_own else settled.cfg_layers,
            "tau": settled.tau,
            "top_p": settled.top_p,
        }
        if (weights := self.choices.placement.weights) != AUTO:
            facts["weights"] = weights
        if settled.schedule == settled.picture:  # as before there was a choice
            del facts["stop_after"]
        if (writing := writing_of(self.choices).mark) is not None:
            facts["file"] = writing
        return mark(facts)


def _prompt(value: object) -> str:
    prompt = text(value)
    if not prompt:
        raise Unreadable("a prompt has at least one word")
    return prompt
