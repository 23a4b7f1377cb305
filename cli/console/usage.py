"""What typer refuses on a command line, said as everything else is: what was given, the rule, the
fix. Knows what click and typer raise, and which rules the table of options has.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import typer

from scalekv.cli.console.help import choices_of, examples_of, is_argument, placeholder, usage_of
from scalekv.configs.options import BY_NAME
from scalekv.configs.values import Unreadable
from scalekv.kv.errors import UserError, close_matches

_CLICK: Any = sys.modules[typer.BadParameter.__module__]
"""Where click's exceptions are: a package of its own, or within typer."""

USAGE: Any = _CLICK.UsageError
"""What typer raises for options and arguments that a command does not have, or not so."""

_EXTRA = re.compile(r"unexpected extra argument(?:s|\(s\))? \((.*)\)")

_BEHIND = "options stand behind the command they are of"


class NotUnderstood(UserError):
    """A command line that no command reads so."""

    kind = "usage"


def not_understood(error: Any, arguments: Sequence[str]) -> NotUnderstood:
    """The refusal for what typer raised.

    Args:
        error: a `USAGE`.
        arguments: the command line it was raised for, without the program's name.
    """
    if error.ctx is None:
        return NotUnderstood(_sentence(error.format_message()))
    if isinstance(error, _CLICK.NoSuchOption):
        return _no_such_option(error, arguments)
    path, command = error.ctx.command_path, error.ctx.command
    rule = usage_of(path, command)
    if isinstance(error, _CLICK.MissingParameter):
        name = placeholder(error.param)
        return NotUnderstood(
            f"{name} is missing",
            where=path,
            rule=rule,
            fix=next(iter(examples_of(command)), f"{path} --help says more"),
        )
    if isinstance(error, _CLICK.BadParameter) and error.param is not None:
        return _bad_value(error, arguments)
    if isinstance(error, _CLICK.BadOptionUsage):
        return _value_or_none(error)
    what, fix = _sentence(error.format_message()), f"{path} --help says more"
    if extra := _EXTRA.search(what):
        what, fix = f"{extra[1]} is more than it takes", "text with spaces goes in quotes"
    return NotUnderstood(what, where=path, rule=rule, fix=fix)


def no_such_command(name: str, path: str, commands: Iterable[str]) -> NotUnderstood:
    """The refusal of a command that is not there; `path` is what it was to be a command of."""
    known = tuple(commands)
    fix = close_matches(name, known)
    if "generate" in known and " " in name:
        fix = f"a prompt stands behind generate: {path} generate {shlex.quote(name)}"
    elif "show" in known and not fix:
        fix = f"{path} show {shlex.quote(name)}, if that is what it is about"
    return NotUnderstood(
        f"there is no command {name!r}",
        where=path,
        rule="one of " + ", ".join(known),
        fix=fix or f"{path} --help says what each does",
    )


def refuse_options_before(context: Any, name: str, command: Any) -> None:
    """Refuses options of a group that were typed before one of its commands, which they would not
    reach.

    Args:
        context: of the group.
        name, command: what was named behind them.

    Raises:
        NotUnderstood: there is one.
    """
    for option in context.command.params:
        source = context.get_parameter_source(option.name)
        if is_argument(option) or source is None or source.name != "COMMANDLINE":
            continue
        off = option.secondary_opts and context.params[option.name] is False
        word = max(option.secondary_opts if off else option.opts, key=len)
        path = f"{context.command_path} {name}"
        fix = f"{_BEHIND}: {path} {word}"
        if word not in _long_names(command):
            fix = f"leave it out: {path} has no {word}"
        raise NotUnderstood(
            f"{word} stands before {name}, which it would not reach",
            where=context.command_path,
            rule=f"before a command's name it is of {context.command_path} alone",
            fix=fix,
        )


def _no_such_option(error: Any, arguments: Sequence[str]) -> NotUnderstood:
    context, name = error.ctx, error.option_name
    path, command = context.command_path, context.command
    texts = [one for one in command.params if is_argument(one)]
    # Of -fox the option that is not there is -f: what was typed is shown.
    word = next((one for one in arguments if one.partition("=")[0] == name), None)
    word = word or next((one for one in arguments if one.startswith(name)), name)
    if texts and any(character.isspace() for character in word):
        return NotUnderstood(
            f"{word!r} begins with a dash, so it is read as an option",
            where=f"{placeholder(texts[0])} of {path}",
            rule="whatever stands after -- is no option",
            fix=f"{path} -- {shlex.quote(word)}",
        )
    given = word.partition("=")[0]
    known = {one.lstrip("-"): one for one in _long_names(command)}
    near = close_matches(given.lstrip("-"), known)
    fix = re.sub(r"[\w-]+", lambda word: known.get(word[0], word[0]), near)
    with_it = [
        f"{path} {part} {given}"
        for part, one in getattr(command, "commands", {}).items()
        if given in _long_names(one)
    ]
    if with_it:
        fix = f"{_BEHIND}: {with_it[0]}"
    if not fix and texts:
        fix = f"{path} -- {shlex.quote(word)}, if it is a {placeholder(texts[0])}"
    return NotUnderstood(
        f"there is no option {given}", where=path, rule=f"{path} --help lists them", fix=fix
    )


def _long_names(command: Any) -> list[str]:
    options = [one for one in command.params if not is_argument(one) and not one.hidden]
    names = [name for one in options for name in (*one.opts, *one.secondary_opts)]
    return [name for name in names if name.startswith("--")]


def _bad_value(error: Any, arguments: Sequence[str]) -> NotUnderstood:
    param, path = error.param, error.ctx.command_path
    name = placeholder(param) if is_argument(param) else max(param.opts, key=len)
    value = None if is_argument(param) else _typed(arguments, param.opts)
    rule, fix = _rule(param, error.message), ""
    option = BY_NAME.get(param.name)
    if option is not None and value is not None:
        try:
            option.kind.read(value)
        except Unreadable as unreadable:
            rule, fix = unreadable.rule, unreadable.fix
    choices = choices_of(param)
    if choices:
        fix = close_matches(value or "", choices)
    fix = fix or _an_example(param)
    what = f"cannot read the value of {name}" if value is None else f"{name} is {value!r}"
    return NotUnderstood(what, where=name, rule=rule, fix=fix or f"{path} --help says more")


def _typed(arguments: Sequence[str], names: Sequence[str]) -> str | None:
    """What stands behind the last of these options."""
    found = None
    for word, following in pairwise([*arguments, ""]):
        name, equals, value = word.partition("=")
        if name in names:
            found = value if equals else following
        elif word[:2] in names and not word.startswith("--"):
            found = word[2:]
    return found


def _rule(param: Any, message: str) -> str:
    choices = choices_of(param)
    if choices:
        return "one of " + ", ".join(choices)
    words = {"int": "a whole number", "float": "a number"}.get(_type_name(param))
    if words is None:
        return _sentence(message)
    kind = getattr(param, "type", param)
    least, most = getattr(kind, "min", None), getattr(kind, "max", None)
    if least is None and most is None:
        return words
    if most is None:
        return f"{words} of at least {least}"
    return f"{words} from {least} to {most}"


def _type_name(param: Any) -> str:
    described = getattr(param, "type_descriptor", None)
    if described is not None:
        return str(getattr(described.annotation, "__name__", ""))
    name = str(getattr(param.type, "name", ""))
    return {"integer": "int", "integer range": "int", "float range": "float"}.get(name, name)


def _value_or_none(error: Any) -> NotUnderstood:
    context, name = error.ctx, error.option_name
    path = context.command_path
    param = next((p for p in context.command.params if name in getattr(p, "opts", ())), None)
    if param is None:
        return NotUnderstood(_sentence(error.format_message()), where=path)
    value = placeholder(param)
    if not value:
        return NotUnderstood(f"{name} takes no value", where=name, rule=name, fix="name it alone")
    return NotUnderstood(
        f"{name} has no value", where=name, rule=f"{name} {value}", fix=_an_example(param)
    )


def _an_example(param: Any) -> str:
    option = BY_NAME.get(param.name)
    default = option.default if option is not None else param.default
    default = default or next(iter(choices_of(param)), None)
    if is_argument(param) or default is None:
        return ""
    return f"for instance {max(param.opts, key=len)} {default}"


def _sentence(message: str) -> str:
    """A message of typer's as a part of a sentence."""
    first = message.strip().splitlines()[0].rstrip(".") if message.strip() else ""
    return first[:1].lower() + first[1:]
