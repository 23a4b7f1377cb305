"""The error shown to users: what went wrong, where, which rule it breaks and how to fix it.
Knows nothing of who shows it."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable
from typing import ClassVar


class UserError(Exception):
    """Something the caller asked for cannot be done, and they can mend it.

    Attributes:
        what: one sentence saying what is wrong.
        where: the file, key, option or argument it is in, or "".
        rule: what would be allowed, or "".
        fix: what to do next, or "".
        kind: a word for programs, which stays when the wording of a message changes.
    """

    kind: ClassVar[str] = "refused"

    def __init__(self, what: str, *, where: str = "", rule: str = "", fix: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.rule = rule
        self.fix = fix

    def __str__(self) -> str:
        details = (("where", self.where), ("rule", self.rule), ("fix", self.fix))
        return "\n".join([self.what, *(f"  {name}: {text}" for name, text in details if text)])


class BudgetTooSmall(UserError):
    """Less than a cache or a policy can work with at this size; more would do. A search for what
    fits takes it as "does not fit"."""


def check_one_of(
    word: str, known: Collection[str], what: str, where: str, *, also: str = "", otherwise: str = ""
) -> None:
    """Refuses a word that is not among those known.

    Args:
        what, where: of the refusal.
        also: what the rule allows besides, from its comma on.
        otherwise: the fix where no known word is near.

    Raises:
        UserError: it is not; the nearest are named.
    """
    if word not in known:
        raise UserError(
            what,
            where=where,
            rule="one of " + ", ".join(known) + also,
            fix=close_matches(word, known) or otherwise,
        )


def close_matches(word: str, known: Iterable[str]) -> str:
    """A phrase for `fix` naming the known words nearest to `word`, or else that it is a part of;
    "" where there are none. All there
    are is for `rule` to say.
    """
    names = {name.casefold(): name for name in sorted(known)}
    part = word.casefold()
    near = difflib.get_close_matches(part, names, n=3)
    if not near and len(part) > 1:
        near = [name for name in names if part in name][:3]
    return f"did you mean {' or '.join(names[name] for name in near)}?" if near else ""
