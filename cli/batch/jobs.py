"""From rows to pictures to be made: every row checked, every picture with its seed, its name and a
mark of everything that makes it what it is.

Knows requests and names; reads no weights and touches no folder.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from scalekv.cli.batch.file import PromptFile
from scalekv.cli.batch.reader import (
    SETTINGS_OF_ROWS,
    Checked,
    Reader,
    mark,
    problem_of,
)
from scalekv.cli.batch.rows import Problem, shown
from scalekv.cli.choices import Choices
from scalekv.cli.generate.destination import writing_of
from scalekv.cli.pictures.names import NameTemplate, broken_rule, same_file, slug
from scalekv.cli.prompts.wildcards import BadTemplate, escaped
from scalekv.configs.values import MOST_SEED
from scalekv.infinity_patch.asked.check import tokenizer_of
from scalekv.infinity_patch.asked.request import Request
from scalekv.infinity_patch.asked.settled import Settled
from scalekv.infinity_patch.model.tokens import cut_prompt
from scalekv.kv.errors import UserError

MOST_PICTURES = 500_000  # of a whole file; a typing error in num_images would fill the memory


@dataclass(frozen=True)
class Job:
    """One picture to be made.

    Attributes:
        index: place among all pictures of the file, from 0.
        line: of its row in the file; place: the same in words, "line 3".
        image: place among the pictures of its row, from 0.
        name: of its file, without the suffix.
        settled: what it has in common with others, settled; pictures with equal settings run
            together.
        mark: the same for two jobs if and only if they ask for the same picture.
        template: what the prompt was drawn from; None: wildcards are off.
        notes: what else the row says.
    """

    index: int
    line: int
    place: str
    image: int
    prompt: str
    seed: int
    name: str
    settled: Settled
    mark: str
    template: str | None = None
    notes: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @property
    def settings(self) -> Request:
        """What was asked for of all pictures that run together with this one."""
        return self.settled.request

    @property
    def said(self) -> dict[str, Any]:
        """What its row says besides what is drawn, for sidecar and manifest."""
        template = {} if self.template is None else {"template": self.template}
        return template | ({"notes": dict(self.notes)} if self.notes else {})


def jobs_of(file: PromptFile, choices: Choices, template: NameTemplate, device: str) -> list[Job]:
    """All pictures of a file, in its order.

    Args:
        choices: what holds where a row says nothing; its request's seed is that of the picture
            with index 0.
        device: type of the device that they are made on, "cuda" or "cpu".

    Raises:
        UserError: every problem of every row.
    """
    reader = Reader(choices, device)
    rows = [checked for row in file.rows if (checked := reader.row(row, file.problems))]
    _check_count(rows, file)
    jobs: list[Job] = []
    taken: dict[str, int] = {}
    for row in rows:
        try:
            for job in _pictures(row, len(jobs), file.unit, choices, template, reader):
                wrong = _wrong_name(job, taken, file.unit)
                jobs.append(job)
                taken.setdefault(same_file(job.name), row.line)
                if wrong is not None:
                    file.problems.append(wrong)
                    break  # the row's other pictures have no better names and higher seeds
        except BadTemplate as error:
            file.problems.append(Problem(row.line, error.what, error.rule, error.fix))
    missing = _check_texts(jobs, choices, file.problems)
    if file.problems:
        file.refuse()
    if missing is not None:
        raise missing
    return jobs


def _check_count(rows: Sequence[Checked], file: PromptFile) -> None:
    """Refuses at once what would take minutes and gigabytes to refuse row by row."""
    count = sum(row.pictures for row in rows)
    if count > MOST_PICTURES:
        largest = max(rows, key=lambda row: row.pictures)
        file.problems = [
            Problem(
                largest.line if largest.pictures > MOST_PICTURES else 0,
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
    prompt = job.prompt if job.template is None else escaped(job.prompt)
    own = {"prompt": prompt, "seed": job.seed, "name": job.name}
    common = {name: getattr(job.settings, name) for name in SETTINGS_OF_ROWS}
    said = {key: value for key, value in (own | common).items() if value is not None}
    return said | dict(job.notes)


def _pictures(
    row: Checked,
    first: int,
    unit: str,
    choices: Choices,
    template: NameTemplate,
    reader: Reader,
) -> Iterator[Job]:
    """A row's pictures. Each setting of a sweep has the same seeds, and so the same words drawn.

    Raises:
        BadTemplate: nothing can be drawn from its prompt.
    """
    words: dict[str, str] = {}
    wildcards = choices.wildcards
    for number in range(row.pictures):
        settled = row.settled[number // row.count]
        image = number % row.count
        own = row.seed_of(image)
        seed = choices.seeds.seed(first + image, image) if own is None else own
        prompt = row.prompt if wildcards is None else wildcards.draw(row.prompt, seed)
        if prompt not in words:
            words[prompt] = slug(prompt)
        if row.name is None:
            name = template.name(
                words[prompt],
                index=first + number,
                seed=seed,
                line=row.line,
                image=number,
                policy=settled.request.policy,
                budget=settled.request.budget,
            )
        else:
            name = row.name if number == 0 else f"{row.name}-{number + 1}"
        yield Job(
            index=first + number,
            line=row.line,
            place=f"{unit} {row.line}",
            image=number,
            prompt=prompt,
            seed=seed,
            name=name,
            settled=settled,
            mark=mark([reader.mark_of(settled), prompt, seed]),
            template=None if wildcards is None else row.prompt,
            notes=row.notes,
        )


def _wrong_name(job: Job, taken: Mapping[str, int], unit: str) -> Problem | None:
    """Why a picture cannot be called and seeded so; None: it can."""
    if job.seed > MOST_SEED:
        return Problem(
            job.line,
            f"picture {job.image + 1} has the seed {job.seed}",
            f"a seed is at most {MOST_SEED}",
        )
    if rule := broken_rule(job.name):
        return Problem(job.line, f"the name {shown(job.name)}", rule)
    if same_file(job.name) in taken:
        return Problem(
            job.line,
            f"the name {shown(job.name)} is that of {unit} {taken[same_file(job.name)]} too",
            "every picture has a name of its own",
            "{index} in the template --name tells pictures apart",
        )
    return None


def _check_texts(
    jobs: Sequence[Job], choices: Choices, problems: list[Problem]
) -> UserError | None:
    """Notes prompts that are too long, for the model or for the pictures' format. Returns why that
    cannot be told, where files are missing."""
    writing = writing_of(choices)
    try:
        tokenizer = tokenizer_of(choices.preset, choices.weights_dir)
    except UserError as error:
        return error
    known: set[tuple[str, str | None, bool, bool]] = set()
    for job in jobs:
        request = job.settings
        key = (job.prompt, request.negative, request.positive_prompt, request.truncate)
        if key in known:
            continue
        texts = (("prompt", request.text_of(job.prompt)), ("negative", request.negative or ""))
        try:
            writing.check_room(job.prompt, request.negative)
            for name, written in () if request.truncate else texts:
                cut_prompt(tokenizer, written, name, truncate=False)
        except UserError as error:
            if (problem := problem_of(job.line, error)) not in problems[-1:]:
                problems.append(problem)
        else:
            known.add(key)
    return None
