"""Commands and groups of commands with this program's own help and its own words for what they
refuse. Knows typer; no command in particular.
"""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand, TyperGroup

from scalekv.cli.console.help import few_words, help_of
from scalekv.cli.console.usage import USAGE, no_such_command, refuse_options_before


class _Ours:
    """What a command and a group have in common."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Writes the help."""
        formatter.write(help_of(ctx))

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        """Reads what was typed; what it refuses is of this command."""
        try:
            return super().parse_args(ctx, args)  # type: ignore[misc]
        except USAGE as error:  # click leaves the context out of some
            error.ctx = ctx
            raise

    def shell_complete(self, ctx: Any, incomplete: str) -> Any:
        """Commands and options for a shell to offer, with a few words about each."""
        offered = super().shell_complete(ctx, incomplete)  # type: ignore[misc]
        about = {name: part.help for name, part in getattr(self, "commands", {}).items()}
        about |= {name: one.help for one in ctx.command.params for name in one.opts}
        for item in offered:
            item.help = few_words(about.get(item.value) or item.help or "")
        return offered


class Command(_Ours, TyperCommand):
    """A command."""


class CommandGroup(_Ours, TyperGroup):
    """Commands under one name."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that is named first in `args`.

        Raises:
            NotUnderstood: there is none of that name, or options stand before it.
        """
        name = args[0]
        command = self.get_command(ctx, name)
        if not ctx.resilient_parsing:
            if command is not None:
                refuse_options_before(ctx, name, command)
            elif not name.startswith("-"):
                raise no_such_command(name, ctx.command_path, self.commands)
        return super().resolve_command(ctx, args)
