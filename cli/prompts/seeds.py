"""Which seed each picture gets. Knows numbers alone."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from scalekv.configs.values import RANDOM
from scalekv.kv.errors import UserError

MOST_RANDOM = 2**32
"""A random seed is below it: short enough to be typed again, and what other tools have."""


@dataclass(frozen=True)
class Seeds:
    """Seeds as they were asked for.

    Attributes:
        first: of the first picture.
        listed: of the pictures of each prompt, where they were named; () where they were not.
        same: every prompt begins with the first seed again.
        random: the first seed was drawn.
    """

    first: int = 0
    listed: tuple[int, ...] = ()
    same: bool = False
    random: bool = False

    @classmethod
    def of(cls, asked: int | str | tuple[int, ...], *, same: bool) -> Seeds:
        """What `asked` comes to: one seed, several, or "random", which is drawn here."""
        if isinstance(asked, tuple):
            return cls(asked[0], asked, same)
        if asked == RANDOM:
            return cls(secrets.randbelow(MOST_RANDOM), (), same, random=True)
        return cls(int(asked), (), same)

    def one(self, command: str) -> int:
        """The first seed, for commands that draw from one.

        Raises:
            UserError: several are named.
        """
        if self.listed:
            raise UserError(
                f"{command} draws from one seed, and {len(self.listed)} are named",
                where="--seed",
                rule="a whole number",
                fix=f"--seed {self.first}",
            )
        return self.first

    def seed(self, index: int, image: int) -> int:
        """The seed of a picture.

        Args:
            index: its place among all pictures, from 0.
            image: its place among those of its prompt, from 0.
        """
        if self.listed:
            return self.listed[image]
        return self.first + (image if self.same else index)

    def all_of(self, pictures: int, each: int) -> Sequence[int] | None:
        """The seeds of all pictures, `each` of a prompt; None: each has the next one."""
        if not self.listed and not self.same:
            return None
        return tuple(self.seed(index, index % each) for index in range(pictures))
