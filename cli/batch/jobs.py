"""From rows to pictures to be made: every row checked, every picture with its seed, its name and a
mark of everything that makes it what it is.

Knows requests and names; reads no weights and touches no folder.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any

from scalekv.cli.batch.file import Problem, PromptFile, Row, shown
from scalekv.cli.batch.names import NameTemplate, broken_rule, same_file, without_suffix
from scalekv.cli.choices import Choices, policy_and_budget, ratio_and_pixels
from scalekv.cli.pictures.folder import slug
from scalekv.configs.option import Owner
from scalekv.configs.options import COLUMNS
from scalekv.configs.settings import Setting, Source
from scalekv.configs.values import MOST_SEED, Unreadable, text
from scalekv.infinity_patch.asked.check import tokenizer_of
from scalekv.infinity_patch.asked.request import Request
from scalekv.infinity_patch.asked.settled import Settled, settle
from scalekv.infinity_patch.model.tokens import cut_prompt
from scalekv.kv.errors import UserError
from scalekv.kv.policies.registry import stores

MOST_PICTURES = 500_000  # of a whole file; a typing error in num_images would fill the memory

_EACH = {"prompts", "seed", "seeds", "num_images"}
_NOT_THE_PICTURE = {"batch_size", "reproducible"}


@dataclass(frozen=True)
class Job:
    """One picture to be made.

    Attributes:
        index: place among all pictures of the file, from 0.
        line: of its row in the file.
        image: place among the pictures of its row, from 0.
        name: of its file, without the suffix.
        settled: what it has in common with others, settled; pictures with equal settings run
            together.
        mark: the same for two jobs if and only if they ask for the same picture.
    """

    index: int
    line: int
    image: int
    prompt: str
    seed: int
    name: str
    settled: Settled
    mark: str

    @property
    def settings(self) -> Request:
        """What was asked for of all pictures that run together with this one."""
        return self.settled.request


@dataclass(frozen=True)
class _Checked:
    """A row whose values were read: settings common to its pictures, and what is its own."""

    line: int
    prompt: str
    seed: int | None
    count: int
    name: str | None
    settled: Settled


def jobs_of(file: PromptFile, choices: Choices, template: NameTemplate, device: str) -> list[Job]:
    """All pictures of a file, in its order.

    Args:
        choices: what holds where a row says nothing; its request's seed is that of the picture
            with index 0.
        device: type of the device that they are made on, "cuda" or "cpu".

    Raises:
        UserError: every problem of every row.
    """
    reader = _Reader(choices, device)
    rows = [checked for row in file.rows if (checked := reader.row(row, file.problems))]
    _check_count(rows, file)
    missing = _check_lengths(rows, choices, file.problems)
    jobs: list[Job] = []
    taken: dict[str, int] = {}
    for row in rows:
        for job in _pictures(row, len(jobs), choices, template, reader):
            wrong = _out_of_bounds(job)
            key = same_file(job.name)
            if wrong is not None:
                file.problems.append(wrong)
            elif key in taken:
                file.problems.append(
                    Problem(
                        row.line,
                        f"the name {shown(job.name)} is that of line {taken[key]} too",
                        "every picture has a name of its own",
                        "{index} in the template --name tells pictures apart",
                    )
                )
            jobs.append(job)
            taken.setdefault(key, row.line)
            if wrong is not None:
                break  # the row's other pictures have no better names and higher seeds
    if file.problems:
        file.refuse()
    if missing is not None:
        raise missing
    return jobs


def _check_count(rows: Sequence[_Checked], file: PromptFile) -> None:
    """Refuses at once what would take minutes and gigabytes to refuse row by row."""
    count = sum(row.count for row in rows)
    if count > MOST_PICTURES:
        largest = max(rows, key=lambda row: row.count)
        file.problems = [
            Problem(
                largest.line if largest.count > MOST_PICTURES else 0,
                f"{count:,} pictures are asked for in one file",
                f"at most {MOST_PICTURES:,} in one file",
                "split the file, or ask for fewer with -n or num_images",
            )
        ]
        file.refuse()


def selected(
    jobs: Sequence[Job], start: int, limit: int | None, shard: tuple[int, int] | None
) -> list[Job]:
    """The jobs of some rows, and of these one shard's.

    Args:
        start: rows to leave out at the beginning.
        limit: rows to take at most; None: all.
        shard: (i, n) takes every picture whose index leaves the rest i - 1 over n.
    """
    lines = list(dict.fromkeys(job.line for job in jobs))
    wanted = set(lines[start : None if limit is None else start + limit])
    return [
        job
        for job in jobs
        if job.line in wanted and (shard is None or job.index % shard[1] == shard[0] - 1)
    ]


def groups(jobs: Sequence[Job]) -> list[list[Job]]:
    """Jobs that can run together, in the order of the first of each group."""
    by_settings: dict[Request, list[Job]] = {}
    for job in jobs:
        by_settings.setdefault(job.settings, []).append(job)
    return list(by_settings.values())


def as_row(job: Job) -> dict[str, Any]:
    """A row of a JSON lines file that, with the same options, asks for this picture."""
    own = {"prompt": job.prompt, "seed": job.seed, "name": job.name}
    common = {name: getattr(job.settings, name) for name in _SETTINGS}
    return {key: value for key, value in (own | common).items() if value is not None}


def _pictures(
    row: _Checked, first: int, choices: Choices, template: NameTemplate, reader: _Reader
) -> Iterator[Job]:
    words = slug(row.prompt)
    common = reader.mark_of(row.settled)
    for image in range(row.count):
        index = first + image
        seed = row.seed + image if row.seed is not None else choices.request.seed + index
        if row.name is None:
            name = template.name(index=index, seed=seed, line=row.line, image=image, slug=words)
        else:
            name = row.name if image == 0 else f"{row.name}-{image + 1}"
        yield Job(
            index=index,
            line=row.line,
            image=image,
            prompt=row.prompt,
            seed=seed,
            name=name,
            settled=row.settled,
            mark=_mark([common, row.prompt, seed]),
        )


def _out_of_bounds(job: Job) -> Problem | None:
    if job.seed > MOST_SEED:
        return Problem(
            job.line,
            f"picture {job.image + 1} has the seed {job.seed}",
            f"a seed is at most {MOST_SEED}",
        )
    rule = broken_rule(job.name)
    return Problem(job.line, f"the name {shown(job.name)}", rule) if rule else None


def _mark(parts: object) -> str:
    text = json.dumps(parts, ensure_ascii=True, sort_keys=True, default=repr)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


class _Reader:
    """Reads rows against the choices that hold for all."""

    def __init__(self, choices: Choices, device: str) -> None:
        self.choices = choices
        self.device = device
        self.base = replace(choices.request, prompts=("",), seed=0, num_images=1, seeds=None)
        self._settled = lru_cache(maxsize=None)(self._settle)
        self._marks: dict[Request, str] = {}

    def row(self, row: Row, problems: list[Problem]) -> _Checked | None:
        """The row's values; None and problems where they cannot be used."""
        read: dict[str, Any] = {}
        bad = False
        for name, value in row.values.items():
            try:
                read[name] = _READERS[name](value)
            except Unreadable as error:
                what = f"{name} is {shown(value)}"
                problems.append(Problem(row.line, what, error.rule, error.fix))
                bad = True
        if "prompt" not in row.values:
            problems.append(Problem(row.line, "the prompt is missing", "every row has one"))
            bad = True
        try:
            settled = self._settled(self._settings(read))
        except UserError as error:
            settled = error
        if isinstance(settled, UserError):
            problems.append(_problem(row.line, settled))
            return None
        if bad:
            return None
        count = read.get("num_images", self.choices.request.num_images)
        own_name, own_seed = read.get("name"), read.get("seed")
        return _Checked(row.line, read["prompt"], own_seed, count, own_name, settled)

    def _settings(self, read: Mapping[str, Any]) -> Request:
        if not read.keys() & _OWN:
            return self.base
        settings = replace(self.base, **{name: read[name] for name in _SETTINGS if name in read})

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
            "pixels": str(settled.schedule),
            "budget": budget,
            "cfg": settled.cfg,
            "cfg_layer": None if settled.cfg_layers == presets_own else settled.cfg_layers,
            "tau": settled.tau,
            "top_p": settled.top_p,
        }
        return _mark(facts)


def _check_lengths(
    rows: Sequence[_Checked], choices: Choices, problems: list[Problem]
) -> UserError | None:
    """Notes prompts that are too long. Returns why that cannot be told, where files are missing."""
    try:
        tokenizer = tokenizer_of(choices.preset, choices.weights_dir)
    except UserError as error:
        return error
    known: set[tuple[str, str]] = set()
    for row in rows:
        texts = (
            ("prompt", row.settled.request.text_of(row.prompt)),
            ("negative", row.settled.request.negative or ""),
        )
        for name, written in texts:
            if row.settled.request.truncate or (name, written) in known:
                continue
            try:
                cut_prompt(tokenizer, written, name, truncate=False)
            except UserError as error:
                problems.append(_problem(row.line, error))
            else:
                known.add((name, written))
    return None


def _problem(line: int, error: UserError) -> Problem:
    place = error.where.removeprefix("--")
    named = f"{place}: {error.what}" if place and place not in error.what else error.what
    return Problem(line, named, error.rule, error.fix)


def _prompt(value: object) -> str:
    prompt = text(value)
    if not prompt:
        raise Unreadable("a prompt has at least one word")
    return prompt


def _name(value: object) -> str:
    if not isinstance(value, str):
        raise Unreadable("text")
    name = without_suffix(value)
    wrong = broken_rule(name)
    if wrong:
        raise Unreadable(wrong)
    return name


_OWN = COLUMNS.keys() - _EACH
"""Columns that make a row's settings others than those of the options."""
_SETTINGS = [name for name in COLUMNS if COLUMNS[name].owner is Owner.REQUEST and name in _OWN]
_READERS: dict[str, Callable[[object], Any]] = {
    "prompt": _prompt,
    **{name: row.kind.read for name, row in COLUMNS.items()},
    "name": _name,
}
