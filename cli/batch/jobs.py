"""From rows to pictures to be made: every row checked, every picture with its seed, its name and a
mark of everything that makes it what it is.

Knows requests and names; reads no weights and touches no folder.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any

from scalekv.cli.batch.file import Problem, PromptFile, Row, shown
from scalekv.cli.batch.names import NameTemplate, broken_rule, same_file, without_suffix
from scalekv.cli.choices import Choices, policy_and_budget
from scalekv.cli.pictures.folder import slug
from scalekv.configs.settings import Setting, Source
from scalekv.infinity_patch.asked.check import check_settings
from scalekv.infinity_patch.asked.request import MOST_SEED, Request, per_scale
from scalekv.infinity_patch.asked.settled import budget_of, in_bytes, schedule_of, tokenizer_of
from scalekv.infinity_patch.model.tokens import cut_prompt
from scalekv.kv.errors import UserError

MOST_PICTURES = 10_000_000  # of a whole file; a typing error in num_images would fill the memory

_SEED_RULE = f"a whole number from 0 to {MOST_SEED}"
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
        settings: what it has in common with others; pictures with equal settings run together.
        mark: the same for two jobs if and only if they ask for the same picture.
    """

    index: int
    line: int
    image: int
    prompt: str
    seed: int
    name: str
    settings: Request
    mark: str


@dataclass(frozen=True)
class _Checked:
    """A row whose values were read: settings common to its pictures, and what is its own."""

    line: int
    prompt: str
    seed: int | None
    count: int
    name: str | None
    settings: Request


def jobs_of(file: PromptFile, choices: Choices, template: NameTemplate) -> list[Job]:
    """All pictures of a file, in its order.

    Args:
        choices: what holds where a row says nothing; its request's seed is that of the picture
            with index 0.

    Raises:
        UserError: every problem of every row.
    """
    reader = _Reader(choices)
    rows = [checked for row in file.rows if (checked := reader.row(row, file.problems))]
    missing = _check_lengths(rows, choices, file.problems)
    jobs: list[Job] = []
    taken: dict[str, int] = {}
    for row in rows:
        if len(jobs) + row.count > MOST_PICTURES:
            file.problems.append(
                Problem(row.line, f"more than {MOST_PICTURES} pictures", "split the file")
            )
            break
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
    said = job.settings
    row = {
        "prompt": job.prompt,
        "seed": job.seed,
        "name": job.name,
        "ratio": said.ratio,
        "pixels": said.pixels,
        "cfg": said.cfg,
        "tau": said.tau,
        "top_p": said.top_p,
        "policy": said.policy,
        "budget": said.budget,
        "negative": said.negative,
    }
    return {key: value for key, value in row.items() if value is not None}


def _pictures(
    row: _Checked, first: int, choices: Choices, template: NameTemplate, reader: _Reader
) -> Iterator[Job]:
    words = slug(row.prompt)
    common = reader.mark_of(row.settings)
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
            settings=row.settings,
            mark=_mark([common, row.prompt, seed]),
        )


def _out_of_bounds(job: Job) -> Problem | None:
    if job.seed > MOST_SEED:
        return Problem(job.line, f"picture {job.image + 1} has the seed {job.seed}", _SEED_RULE)
    rule = broken_rule(job.name)
    return Problem(job.line, f"the name {shown(job.name)}", rule) if rule else None


def _mark(parts: object) -> str:
    text = json.dumps(parts, ensure_ascii=True, sort_keys=True, default=repr)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


class _Reader:
    """Reads rows against the choices that hold for all."""

    def __init__(self, choices: Choices) -> None:
        self.choices = choices
        self.base = replace(choices.request, prompts=("",), seed=0, num_images=1, seeds=None)
        self._wrong = lru_cache(maxsize=None)(self._check_settings)
        self.mark_of = lru_cache(maxsize=None)(self._mark_of)

    def row(self, row: Row, problems: list[Problem]) -> _Checked | None:
        """The row's values; None and problems where they cannot be used."""
        read: dict[str, Any] = {}
        bad = False
        for name, value in row.values.items():
            try:
                read[name] = _READERS[name](value)
            except ValueError as error:
                problems.append(Problem(row.line, f"{name} is {shown(value)}", str(error)))
                bad = True
        if "prompt" not in row.values:
            problems.append(Problem(row.line, "the prompt is missing", "every row has one"))
            bad = True
        try:
            settings = self._settings(read)
            wrong = self._wrong(settings)
        except UserError as error:
            wrong = error
        if wrong is not None:
            problems.append(_problem(row.line, wrong))
        if bad or wrong is not None:
            return None
        count = read.get("num_images", self.choices.request.num_images)
        own_name, own_seed = read.get("name"), read.get("seed")
        return _Checked(row.line, read["prompt"], own_seed, count, own_name, settings)

    def _settings(self, read: Mapping[str, Any]) -> Request:
        own = {name: read[name] for name in _SETTINGS if name in read}
        settings = replace(self.base, **own)
        if "policy" in read or "budget" in read:
            pair = [
                Setting(
                    name,
                    str(getattr(settings, name)),
                    Source.OPTION if name in read else Source.DEFAULT,
                    "this row" if name in read else "the options",
                )
                for name in ("policy", "budget")
            ]
            policy, budget = policy_and_budget(*pair)
            settings = replace(settings, policy=policy, budget=budget)
        return settings

    def _check_settings(self, settings: Request) -> UserError | None:
        try:
            check_settings(settings, self.choices.preset, self.choices.dtype)
        except UserError as error:
            return error
        return None

    def _mark_of(self, settings: Request) -> str:
        """Of everything but prompt and seed; what the preset fills in counts as if it were said."""
        preset = self.choices.preset
        sampling = preset.sampling
        schedule = schedule_of(settings, preset)
        budget: object = [settings.budget, settings.batch_size]  # bytes are for a batch together
        if not in_bytes(settings.budget):
            made = budget_of(settings, preset, schedule, element_bytes=1)
            budget = repr(replace(made, label="", origin=""))
        cfg = sampling.cfg if settings.cfg is None else settings.cfg
        tau = sampling.tau if settings.tau is None else settings.tau
        said = {
            entry.name: getattr(settings, entry.name)
            for entry in fields(settings)
            if entry.name not in _EACH | _NOT_THE_PICTURE
        }
        said |= {
            "model": preset.name,
            "dtype": [self.choices.dtype, self.choices.placement.text_dtype],
            "pixels": str(schedule),
            "budget": budget,
            "cfg": per_scale(cfg, len(schedule), "cfg"),
            "tau": per_scale(tau, len(schedule), "tau"),
            "top_p": sampling.top_p if settings.top_p is None else settings.top_p,
        }
        return _mark(said)


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
            ("prompt", row.settings.text_of(row.prompt)),
            ("negative", row.settings.negative or ""),
        )
        for name, text in texts:
            if (name, text) in known:
                continue
            try:
                cut_prompt(tokenizer, text, name, choices.request.truncate)
            except UserError as error:
                problems.append(_problem(row.line, error))
            else:
                known.add((name, text))
    return None


def _problem(line: int, error: UserError) -> Problem:
    place = error.where.removeprefix("--")
    named = f"{place}: {error.what}" if place and place not in error.what else error.what
    return Problem(line, named, error.rule, error.fix)


def _seed(value: object) -> int:
    number = _whole(value)
    if number is None or not 0 <= number <= MOST_SEED:
        raise ValueError(_SEED_RULE)
    return number


def _count(value: object) -> int:
    number = _whole(value)
    if number is None or number < 1:
        raise ValueError("a whole number of at least 1")
    return number


def _whole(value: object) -> int | None:
    if isinstance(value, str) and re.fullmatch(r"\s*-?\d{1,30}\s*", value, re.ASCII):
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError("a number")
    try:
        return float(value)
    except (ValueError, OverflowError):
        raise ValueError("a number") from None


def _numbers(value: object) -> float | tuple[float, ...]:
    parts = value.split(",") if isinstance(value, str) else value
    try:
        if not isinstance(parts, list):
            return _number(parts)
        read = tuple(_number(part) for part in parts)
    except ValueError:
        read = ()
    if not read:
        raise ValueError("one number, or one per scale: 3, or 1,2,3,3,3,3,3")
    return read[0] if len(read) == 1 else read


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("text")
    control = [c for c in value if not c.isprintable() and c in _CONTROL]
    if control:
        raise ValueError(f"text without control characters, here {control[0]!r}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("text that is valid Unicode, no half of a pair of surrogates") from None
    return value.strip()


def _prompt(value: object) -> str:
    text = _text(value)
    if not text:
        raise ValueError("a prompt has at least one word")
    return text


def _budget(value: object) -> str:
    return str(value) if _whole(value) is not None else _text(value)


def _name(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("text")
    name = without_suffix(value)
    wrong = broken_rule(name)
    if wrong:
        raise ValueError(wrong)
    return name


_CONTROL = {chr(code) for code in (*range(32), *range(127, 160))} - set("\t\n\r")
_SETTINGS = ("ratio", "pixels", "cfg", "tau", "top_p", "policy", "budget", "negative")
_READERS: dict[str, Callable[[object], Any]] = {
    "prompt": _prompt,
    "seed": _seed,
    "num_images": _count,
    "ratio": _text,
    "pixels": _text,
    "cfg": _numbers,
    "tau": _numbers,
    "top_p": _number,
    "policy": _text,
    "budget": _budget,
    "negative": _text,
    "name": _name,
}
