"""Options of `configs.options` as the command line declares them: with panels, bounds, completion.
Knows how commands are declared; what options come to is settled in `choices`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from inspect import Parameter, signature
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from scalekv.configs.option import PANELS, Option, Scope
from scalekv.configs.options import BY_NAME, OPTIONS
from scalekv.kv.errors import UserError
from scalekv.kv.precision import KV_DTYPES

if TYPE_CHECKING:
    from scalekv.configs.models import ModelPreset

DEFAULTS_NOTE = (
    "Every default can be set as SCALEKV_MODEL, SCALEKV_NUM_IMAGES and so on, or in a config file "
    "(lines such as model: emoji; SCALEKV_CONFIG names another one). Options come first, then "
    "variables, then the file, then the model's preset. scalekv config shows which one holds."
)

Typed = Mapping[str, Any]
"""Options of the table by name, as typed; None where nothing was."""


def default_note(words: str) -> str:
    """What holds by default, as it stands at the end of a help text."""
    return f" [default: {words}]"


def takes_options(command: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a command every option of the table that names it, but those that the command declares
    in words of its own; they arrive as its parameter `typed`. --verbose is seen to here.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        own = dict(signature(function, eval_str=True).parameters)
        del own["typed"]
        taken = [o for o in OPTIONS if command in o.commands and o.name not in own]

        @wraps(function)
        def run(**given: Any) -> None:
            if given.get("verbose"):
                from scalekv.cli.console.errors import turn_on_debugging

                turn_on_debugging()
            typed = {
                option.name: given.pop(option.name) for option in taken if option.name in given
            }
            typed.pop("verbose", None)
            function(**given, typed=typed)

        parameters = sorted([*own.values(), *map(_parameter, taken)], key=_place)
        run.__signature__ = signature(function).replace(parameters=parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {one.name: one.annotation for one in parameters}
        return run

    return decorate


def _parameter(option: Option) -> Parameter:
    shell = option.kind.shell
    default = False if option.scope is Scope.CALL and shell is bool else None
    annotation: Any = Annotated[shell if default is False else shell | None, _declared(option)]
    return Parameter(
        option.name, Parameter.POSITIONAL_OR_KEYWORD, default=default, annotation=annotation
    )


def _place(parameter: Parameter) -> tuple[int, int]:
    """Arguments and panels of the command's own first, then by panel and in the table's order."""
    declared = getattr(parameter.annotation, "__metadata__", (None,))[0]
    panel = getattr(declared, "rich_help_panel", None)
    if panel not in PANELS:
        return 0, 0
    names = [option.name for option in OPTIONS]
    row = names.index(parameter.name) if parameter.name in names else -1
    return PANELS.index(panel) + 1, row


def with_default(name: str, words: str) -> Any:
    """An option of the table where a command has words of its own for what holds by default."""
    return _declared(BY_NAME[name], words)


def _declared(option: Option, words: str = "") -> Any:
    kind = option.kind
    names = option.names
    if not names:
        plain = "--" + option.name.replace("_", "-")
        both = kind.shell is bool and option.scope is not Scope.CALL
        names = (f"{plain}/--no-{plain[2:]}" if both else plain,)
    words = words or option.shown_default
    return typer.Option(
        *names,
        min=kind.least,
        max=kind.most,
        metavar=kind.metavar or None,
        help=option.help + (default_note(words) if words else ""),
        show_default=False,
        autocompletion=completes(option.name),
        rich_help_panel=option.panel,
    )


Completion: TypeAlias = Callable[[typer.Context, str], list[str]]
"""What a shell is offered for a word that is not whole yet."""


def several_of(name: str, metavar: str, help_text: str, words: str = "the one set") -> Any:
    """The option of a command that does its work once with each of several values of a setting.

    Args:
        words: for what holds by default.
    """
    return typer.Option(
        metavar=f"{metavar}[,...]",
        help=help_text + default_note(words),
        autocompletion=completes(name, several=True),
        rich_help_panel=BY_NAME[name].panel,
    )


def several_kv_dtypes(others: str, words: str = "the one set") -> Any:
    """`several_of` --kv-dtype.

    Args:
        others: what each is gone through with.
        words: see there.
    """
    names = ", ".join(KV_DTYPES)
    text = f"How held tokens are stored, each with every {others}: {names}."
    return several_of("kv_dtype", "NAME", text, words)


def completes(name: str, *, several: bool = False) -> Completion:
    """Offers what is known of the option of the table with that name, for the model that is typed
    or set.

    Args:
        several: there may be several with commas between, whatever the table says.
    """

    def words(context: typer.Context) -> Iterable[str]:
        from scalekv.configs.settings import Settings

        return values_known(name, context.params.get("model") or Settings().get("model").value)

    return _offers(words, several=several or BY_NAME[name].kind.several)


def completes_words(words: Callable[[], Iterable[str]]) -> Completion:
    """Offers these words, which are asked for when they are needed."""
    return _offers(lambda _: words())


def completes_models(which: Callable[[ModelPreset], object]) -> Completion:
    """Offers the models that `which` holds for."""

    def words(_: typer.Context) -> Iterable[str]:
        from scalekv.configs.models import list_models, model_named

        return (name for name in list_models() if which(model_named(name)))

    return _offers(words)


def values_known(name: str, model: str) -> Iterable[str]:
    """Values of the option of that name to choose from, for a model; not always all there are.

    Raises:
        UserError: no such model.
    """
    if name not in _FROM_SIZES:
        return BY_NAME[name].kind.known(model)
    from scalekv.configs.models import model_named
    from scalekv.infinity_patch.schedules import sizes_of

    return dict.fromkeys(
        _FROM_SIZES[name](size, *how) for size, how in sizes_of(model_named(model)).items()
    )


_FROM_SIZES: Mapping[str, Callable[[tuple[int, int], str, str], str]] = {
    "size": lambda size, _ratio, _pixels: f"{size[0]}x{size[1]}",
    "ratio": lambda _size, ratio, _pixels: ratio,
    "pixels": lambda _size, _ratio, pixels: pixels,
}
"""Options whose values follow from the sizes that a model draws."""


def _offers(
    words: Callable[[typer.Context], Iterable[str]], *, several: bool = False
) -> Completion:
    def complete(ctx: typer.Context, incomplete: str) -> list[str]:
        before, comma, begun = incomplete.rpartition(",") if several else ("", "", incomplete)
        try:
            known = [word for word in words(ctx) if word not in before.split(",")]
        except UserError:  # a model or a setting that is not right: the command itself says so
            return []
        return [before + comma + word for word in known if word.startswith(begun)]

    return complete


def a_part(panel: str, more: str = "") -> Any:
    """The option --shard of a command whose work several processes may share; see `shard_of`."""
    return typer.Option(
        metavar="I/N",
        help="Draw only part I of N, counted from 1: one for every GPU or array job, all with the "
        f"same --out.{more}",
        rich_help_panel=panel,
    )


def shard_of(text: str | None) -> tuple[int, int] | None:
    """(i, n) of "i/n".

    Raises:
        UserError: no such shard.
    """
    if text is None:
        return None
    parts = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text, re.ASCII)
    if parts is None or not 1 <= int(parts[1]) <= int(parts[2]):
        raise UserError(
            f"no shard {text!r}",
            where="--shard",
            rule="I/N, from 1/N to N/N",
            fix="--shard 1/8 for the first of eight",
        )
    return int(parts[1]), int(parts[2])


BATCH_SIZE = BY_NAME["batch_size"].names
"""For commands that have words of their own for it."""

# For commands that take one or two of them.
Json = Annotated[bool, _declared(BY_NAME["json"])]
Model = Annotated[str | None, _declared(BY_NAME["model"])]
WeightsDir = Annotated[str | None, _declared(BY_NAME["weights_dir"])]
Out = Annotated[str | None, _declared(BY_NAME["out"])]
Quiet = Annotated[bool | None, _declared(BY_NAME["quiet"])]
Ratio = Annotated[str | None, _declared(BY_NAME["ratio"])]
Pixels = Annotated[str | None, _declared(BY_NAME["pixels"])]
