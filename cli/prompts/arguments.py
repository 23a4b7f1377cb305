"""Prompts from the command line: each as it stands, `-` those of stdin, `@FILE` those of a file.

Knows files of prompts; nothing of what is drawn.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from scalekv.cli.batch.file import FORMATS, STDIN, prompts_alone
from scalekv.cli.console.errors import stderr
from scalekv.kv.errors import UserError

AT = "@"
TERMINAL_NOTE = "prompts, one a line; Ctrl-D ends them"


def prompts_of(arguments: Sequence[str], *, quiet: bool = False) -> tuple[str, ...]:
    """The prompts that arguments stand for, in their order. A backslash before `@` or a lone `-`
    gives it as it stands.

    Args:
        quiet: say nothing to whoever is to type them.

    Raises:
        UserError: a file that cannot be read or has more than prompts in it, or stdin twice.
    """
    if list(arguments).count(STDIN) > 1:
        raise UserError(
            "stdin is named twice",
            where="PROMPT",
            rule="stdin is read once",
            fix=r"leave out one -; \- draws a dash",
        )
    prompts: list[str] = []
    for argument in arguments:
        if argument == STDIN:
            tell_of_terminal(quiet=quiet)
            prompts += prompts_alone(STDIN)
        elif argument.startswith(AT):
            prompts += _of_file(argument)
        else:
            marked = argument == "\\-" or argument.startswith("\\@")
            prompts.append(argument[1:] if marked else argument)
    return tuple(prompts)


def tell_of_terminal(*, quiet: bool) -> None:
    """Says what is waited for, where somebody has to type it."""
    if sys.stdin.isatty() and not quiet:
        stderr().print(TERMINAL_NOTE, style="dim")


def _of_file(argument: str) -> tuple[str, ...]:
    try:
        return prompts_alone(argument.removeprefix(AT))
    except UserError as error:
        literal = rf"'\{argument}' draws the words as they stand"
        raise UserError(
            error.what,
            where=error.where or argument,
            rule=error.rule or f"@FILE has one prompt a line, or is one of {', '.join(FORMATS)}",
            fix=f"{error.fix}; {literal}" if error.fix else f"scalekv batch reads rows; {literal}",
        ) from None
