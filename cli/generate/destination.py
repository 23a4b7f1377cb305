"""Where the pictures of `generate` go and what they are called, settled before the model is loaded.

Knows names and whether files are there; writes none.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from scalekv.cli.choices import Choices
from scalekv.cli.pictures.formats import NOT_WRITTEN, SUFFIXES, format_of
from scalekv.cli.pictures.names import NameTemplate, broken_rule, same_file, slug
from scalekv.cli.pictures.writing import Writing
from scalekv.kv.errors import UserError


@dataclass(frozen=True)
class Destination:
    """Where pictures go.

    Attributes:
        folder: that they are put into.
        names: of all pictures without the suffix, where they were asked for; () where each is
            called by its seed and its prompt.
        writing: the format, and what goes into them.
        file: whether --out named a file and no folder.
    """

    folder: Path
    names: tuple[str, ...]
    writing: Writing
    file: bool = False

    @classmethod
    def of(cls, choices: Choices) -> Destination:
        """Where the pictures that are asked for go.

        Raises:
            UserError: names that no file may have, that two pictures would have or that are taken,
                or a prompt that the format has no room for.
        """
        file = names_file(choices.out)
        named = choices.out.suffix if file else ""
        writing = replace(writing_of(choices), named=named)
        for prompt in choices.request.prompts:
            writing.check_room(prompt, choices.request.negative)
        out = choices.out
        if file and choices.name is not None:
            raise UserError(
                f"{out} is a name, and --name gives another",
                where="--out and --name",
                rule="a picture has one name",
                fix=f"leave out --name, or --out {out.parent}",
            )
        names = _numbered_names(out, choices.request.pictures) if file else _by_template(choices)
        there = cls(out.parent if file else out, tuple(names), writing, file)
        there._check()
        return there

    def name(self, index: int) -> str | None:
        """Of picture `index`, without the suffix; None: by its seed and its prompt."""
        return self.names[index] if self.names else None

    def _check(self) -> None:
        where = "--out" if self.file else "--name"
        seen: set[str] = set()
        for name in self.names:
            if wrong := broken_rule(name):
                raise UserError(f"no picture can be called {name!r}", where=where, rule=wrong)
            if same_file(name) in seen:
                raise UserError(
                    f"two pictures would be called {name}",
                    where=where,
                    rule="every picture has a name of its own",
                    fix="{index} or {seed} in the template tells pictures apart",
                )
            seen.add(same_file(name))
            for suffix in (self.writing.suffix, ".json"):
                path = self.folder / (name + suffix)
                if path.exists():
                    raise UserError(
                        f"{path} is there already",
                        where=where,
                        rule="nothing is overwritten; beside a picture is a .json of its name",
                        fix="remove it, or choose another name",
                    )


def writing_of(choices: Choices) -> Writing:
    """How the pictures that are asked for are written."""
    return Writing(choices.format, choices.quality, choices.metadata)


def names_file(out: Path) -> bool:
    """Whether --out names a picture's file and no folder.

    Raises:
        UserError: the file of a picture in a format that is not written.
    """
    if out.is_dir():
        return False
    if out.suffix.casefold() in NOT_WRITTEN:
        raise UserError(
            f"{out} is in no format that is written here",
            where="--out",
            rule="files end in " + ", ".join(SUFFIXES.values()) + "; anything else is a folder",
            fix=f"--out {out.with_suffix('.png')}",
        )
    return format_of(out) is not None


def refuse_file(out: Path, command: str) -> None:
    """For commands that fill a folder.

    Raises:
        UserError: --out names a file.
    """
    if names_file(out):
        raise UserError(
            f"{out} is the name of a picture",
            where="--out",
            rule=f"{command} fills a folder",
            fix=f"--out {out.with_suffix('')}",
        )


def _numbered_names(out: Path, pictures: int) -> Iterator[str]:
    """The file's name; of several, fox-1, fox-2, with as many digits as sort them."""
    if pictures == 1:
        yield out.stem
        return
    digits = len(str(pictures))
    yield from (f"{out.stem}-{number:0{digits}d}" for number in range(1, pictures + 1))


def _by_template(choices: Choices) -> Iterator[str]:
    if choices.name is None:
        return
    template = NameTemplate(choices.name, writing_of(choices).suffixes)
    request, each = choices.request, choices.each
    for index in range(request.pictures):
        yield template.name(
            slug(request.prompts[index // request.num_images]),
            index=index,
            seed=request.seed_of(index),
            line=index // each + 1,
            image=index % each,
            policy=request.policy,
            budget=request.budget,
        )
