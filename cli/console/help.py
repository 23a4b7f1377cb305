"""The help of commands as people read it: each option on a line of its own, its text below, lines
no longer than the terminal. Knows what click and typer know of a command; no command in particular.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from inspect import cleandoc
from textwrap import shorten
from typing import Any

from rich.text import Text

from scalekv.cli.console.terminal import Terminal

WIDEST = 100
"""Columns; longer lines are hard to read."""

_INDENT = 2
_DEFAULT = re.compile(r"\[default: [^\[\]]*\]$")
_WORD = re.compile(r"""(?:[^\s'"]|'[^']*'|"[^"]*")+""")
"""A word of a shell's line, with what is quoted in it."""


def help_of(context: Any) -> str:
    """The help of a context's command, coloured where stdout shows colours."""
    console = Terminal(highlight=False)
    width = min(console.width, WIDEST)
    with console.capture() as capture:
        for line in _lines(context, width, console):
            console.print(line, soft_wrap=True)
    return capture.get().rstrip("\n")


def usage_of(path: str, command: Any) -> str:
    """How a command is called: "scalekv generate [OPTIONS] [PROMPT]..."."""
    arguments = [_in_usage(one) for one in command.params if is_argument(one)]
    tail = ["COMMAND"] if hasattr(command, "commands") else []
    if tail and command.invoke_without_command:
        tail = ["[COMMAND]"]
    return " ".join([path, "[OPTIONS]", *arguments, *tail])


def is_argument(parameter: Any) -> bool:
    """Whether it has no name that is typed."""
    return str(parameter.param_type_name) == "argument"


def placeholder(parameter: Any) -> str:
    """What stands for its value: "DIR"; "" for flags."""
    if not is_argument(parameter) and parameter.is_flag:
        return ""
    return str(parameter.metavar or "|".join(choices_of(parameter)) or parameter.name.upper())


def choices_of(parameter: Any) -> list[str]:
    """The values there are, where they are a list that click or typer knows."""
    kind = getattr(parameter, "type_descriptor", None) or getattr(parameter, "type", None)
    return [str(getattr(one, "value", one)) for one in getattr(kind, "choices", None) or ()]


def words_of(parameter: Any) -> str:
    """What its help says, with what holds where nothing is typed."""
    words = str(parameter.help or "").strip()
    flag = getattr(parameter, "is_flag", False)
    if parameter.show_default is True and not flag and parameter.default is not None:
        words += f" [default: {parameter.default}]"
    return words


def panels_of(command: Any) -> dict[str, list[Any]]:
    """The options that are not hidden, by the heading they stand under; --help comes last."""
    panels: dict[str, list[Any]] = {}
    for one in command.params:
        if not is_argument(one) and not one.hidden:
            panels.setdefault(one.rich_help_panel or "Options", []).append(one)
    return panels


def examples_of(command: Any) -> list[str]:
    """The lines of the epilog that can be typed."""
    lines = (command.epilog or "").splitlines()
    return [line.strip() for line in lines if line.startswith("  ")]


def _in_usage(argument: Any) -> str:
    many = "..." if argument.nargs == -1 else ""
    name = placeholder(argument)
    return f"{name}{many}" if argument.required else f"[{name}]{many}"


def _lines(context: Any, width: int, console: Terminal) -> Iterator[Text]:
    command = context.command

    def wrapped(text: Text, indent: int = 0) -> Iterator[Text]:
        for line in text.wrap(console, max(width - indent, 20)):
            line.rstrip()
            yield Text(" " * indent) + line

    def heading(words: str) -> Iterator[Text]:
        yield Text()
        yield Text(words, style="bold")

    usage = Text("Usage: ", style="bold").append(usage_of(context.command_path, command))
    yield from wrapped(usage)
    for paragraph in cleandoc(command.help or "").split("\n\n"):
        yield Text()
        yield from wrapped(Text(" ".join(paragraph.split())))
    for panel, parts in _commands(command).items():
        yield from heading(panel)
        first = max(map(len, parts))
        for name, part in parts.items():
            said = wrapped(Text(summary_of(part)), _INDENT + first + 2)
            for number, line in enumerate(said):
                start = Text(" " * _INDENT).append(f"{name:{first}}", style="cyan")
                yield start + line[_INDENT + first :] if number == 0 else line
    arguments = [one for one in command.params if is_argument(one)]
    shown = {"Arguments": arguments} if arguments else {}
    # --help is no option of the command's own: it goes where its others go
    own = panels_of(command)
    own.setdefault("Options", []).append(command.get_help_option(context))
    for panel, parameters in {**shown, **own}.items():
        yield from heading(panel)
        for one in parameters:
            yield from wrapped(_names(one), _INDENT)
            yield from wrapped(_said(one), 3 * _INDENT)
    for part in (command.epilog or "").strip().split("\n\n"):
        if part.startswith("  "):
            yield from _example(part.strip(), width)
        elif part.endswith(":"):
            yield from heading(part.strip().rstrip(":"))
        elif part:
            yield Text()
            yield from wrapped(Text(" ".join(part.split())))


def few_words(text: str) -> str:
    """The beginning of a help text, in one line beside a word that a shell offers."""
    return shorten(re.split(r"[.:;] | \(", text)[0].rstrip("."), 60, placeholder=" ...")


def summary_of(command: Any) -> str:
    """The first line of a command's help."""
    return str(cleandoc(command.help or "").partition("\n")[0])


def _commands(command: Any) -> dict[str, dict[str, Any]]:
    panels: dict[str, dict[str, Any]] = {}
    for name, part in getattr(command, "commands", {}).items():
        if not part.hidden:
            panels.setdefault(part.rich_help_panel or "Commands", {})[name] = part
    return panels


def _names(parameter: Any) -> Text:
    if is_argument(parameter):
        return Text(placeholder(parameter), style="cyan")
    names = sorted(parameter.opts, key=len)
    text = Text(", ".join(names), style="cyan")
    if parameter.secondary_opts:
        text.append(" / ", style="dim").append(", ".join(parameter.secondary_opts))
    if placeholder(parameter):
        text.append(" ").append(placeholder(parameter), style="not cyan")
    return text


def _said(parameter: Any) -> Text:
    text = Text(words_of(parameter))
    text.highlight_regex(_DEFAULT, "dim")
    return text


def _example(line: str, width: int) -> Iterator[Text]:
    """A line to type; one that is too long goes on after a backslash, as shells read it."""
    row = " " * _INDENT
    for word in _WORD.findall(line):
        if len(row) + len(word) + 3 > width and row.strip():
            yield Text(row + "\\")
            row = " " * (2 * _INDENT)
        row += word + " "
    yield Text(row.rstrip())
