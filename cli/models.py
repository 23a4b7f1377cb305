"""The commands `scalekv models ...`: which models there are, and what of them is here."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scalekv.cli import options as given
from scalekv.cli.console.commands import Command, CommandGroup

if TYPE_CHECKING:
    from scalekv.configs.models import ModelPreset

HELP = (
    "List the models: what is downloaded, bytes on disk, bytes of a full cache, licence.\n\n"
    "Without a command it lists; show, verify, remove and default are about one of them."
)

models = typer.Typer(name="models", help=HELP, cls=CommandGroup, invoke_without_command=True)


def _name(which: Callable[[ModelPreset], object] = bool) -> Any:
    return typer.Argument(
        metavar="NAME",
        help="A model, or own.yaml.",
        show_default=False,
        autocompletion=given.completes_models(which),
    )


def _removable(preset: ModelPreset) -> object:
    from scalekv.infinity_patch.files.inventory import removable

    return removable(preset)


Name = Annotated[str, _name()]


@models.callback()
def list_command(context: typer.Context, json: given.Json = False) -> None:
    """Lists all models."""
    if context.invoked_subcommand is not None:
        return
    from scalekv.cli.console.stdout import say_json
    from scalekv.configs.models import list_models, model_named

    facts = [_facts(model_named(name)) for name in list_models()]
    if json:
        say_json({"models": facts})
    else:
        _print_list(facts)


@models.command("show", cls=Command, help="Show everything about the model NAME.")
def show(name: Name, json: given.Json = False) -> None:
    """All facts of one model."""
    from dataclasses import asdict

    from scalekv.cli.console.stdout import say_json
    from scalekv.configs.models import model_named
    from scalekv.infinity_patch.schedules import class_in_pixels
    from scalekv.kv.sizes import human_bytes

    preset = model_named(name, "NAME")
    facts = _facts(preset)
    if json:
        details = {k: v for k, v in asdict(preset).items() if k not in facts}
        say_json({**facts, **details})
        return
    spec, tokenizer, sampling = preset.transformer, preset.tokenizer, preset.sampling
    expected, held = facts["download_bytes"], facts["transformer_bytes"]
    in_8_bits = "" if facts["weights_dtype"] is None else f", in {facts['weights_dtype']}"
    rows = {
        "summary": preset.summary,
        "licence": preset.licence,
        "weights": f"{facts['state']}, {human_bytes(facts['disk_bytes'])} on disk" + in_8_bits,
        "download": f"about {human_bytes(expected)} (not verified)" if expected else "none",
        "repository": preset.files.repo if preset.downloadable else "none",
        "transformer": f"{spec.depth} layers, width {spec.width}, {spec.heads} heads; "
        + preset.files.transformer,
        "in memory": f"the transformer {human_bytes(held['bf16'])} in bf16, "
        f"{human_bytes(held['int8'])} with --weights int8",
        "VAE": f"{tokenizer.bits} bits a code, stride {tokenizer.stride}; {preset.files.vae}",
        "text encoder": preset.files.text_encoder,
        "full cache": f"{human_bytes(facts['full_cache_bytes'])} for one picture with guidance, "
        "bf16, all scales but the last",
        "sampling": f"cfg {sampling.cfg:g}, tau {sampling.tau:g}, top-p {sampling.top_p:g}",
        "pixels": ", ".join(class_in_pixels(preset, name) for name in preset.pixel_classes),
        "ratios": ", ".join(preset.ratios) or "all",
        "default": "yes" if facts["default"] else "no",
    }
    print(preset.name)
    for label, text in rows.items():
        print(f"  {label:13} {text}")


@models.command(
    "verify", cls=Command, help="Read the files of NAME and compare them with their hashes."
)
def verify(name: Name, json: given.Json = False) -> None:
    """Refused, with exit code 2, where a file is damaged."""
    from scalekv.cli.console.errors import stderr
    from scalekv.cli.console.stdout import say_json
    from scalekv.configs.models import model_named
    from scalekv.infinity_patch.files.inventory import Verdict
    from scalekv.infinity_patch.files.inventory import verify as check
    from scalekv.kv.errors import UserError

    preset = model_named(name, "NAME")
    console = stderr()

    def say(path: Path) -> None:
        if console.is_terminal:
            console.print(f"reading {path.name}", markup=False, soft_wrap=True, style="dim")

    verdicts = check(preset, on_file=say)
    if json:
        found = [{"path": str(path), "verdict": verdict.value} for path, verdict in verdicts]
        say_json({"model": preset.name, "files": found})
    else:
        for path, verdict in verdicts:
            print(f"{verdict.value:11}  {path}")
    damaged = [path for path, verdict in verdicts if verdict is Verdict.DAMAGED]
    if damaged:
        fix = "put a whole copy in its place"
        if preset.downloadable:
            fix = f"scalekv models remove {name} --yes, then scalekv download {name}"
        elif preset.built_in:
            fix = "install scalekv again: this model comes with it"
        raise UserError(
            f"{preset.name}: {damaged[0].name} is damaged",
            where=str(damaged[0]),
            rule="a file has the hash it is kept or listed under",
            fix=fix,
        )


@models.command(
    "remove", cls=Command, help="Delete the downloaded files of NAME that no other model uses."
)
def remove(
    name: Annotated[str, _name(_removable)],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Asks first."""
    from scalekv.configs.models import model_named
    from scalekv.configs.settings import Settings
    from scalekv.infinity_patch.files.inventory import removable
    from scalekv.infinity_patch.files.inventory import remove as delete
    from scalekv.kv.errors import UserError
    from scalekv.kv.sizes import human_bytes

    preset = model_named(name, "NAME")
    files = removable(preset)
    if not files:
        fix = "scalekv models lists what is downloaded"
        raise UserError(f"nothing of {preset.name} is downloaded", where=name, fix=fix)
    if not yes:
        if not sys.stdin.isatty():
            raise UserError(
                f"removing {len(files)} files of {preset.name} needs a yes, and nobody is asked",
                where=name,
                rule="without a terminal, --yes answers the question",
                fix=f"scalekv models remove {name} --yes",
            )
        for path in files:
            typer.echo(f"  {path}", err=True)
        if not typer.confirm(f"delete these {len(files)} files?", err=True):
            raise typer.Exit(0)
    try:
        freed = delete(files)
    except OSError as error:
        raise UserError(
            f"cannot delete a file: {error.strerror}", where=str(error.filename), fix="check rights"
        ) from error
    print(f"{preset.name}: {human_bytes(freed)} freed")
    if Settings().get("model").value == name:
        print(f"{name} is still the default model; scalekv models default emoji changes that")


@models.command("default", cls=Command, help="Make NAME the model that is used when none is named.")
def default(name: Name) -> None:
    """Writes the config file."""
    from scalekv.configs.models import model_named
    from scalekv.configs.settings import Settings, Source, save_setting
    from scalekv.infinity_patch.files.inventory import State, stored
    from scalekv.kv.errors import UserError

    preset = model_named(name, "NAME")
    state = stored(preset).state
    if state not in (State.BUILT_IN, State.LOCAL, State.DOWNLOADED):
        fix = f"scalekv download {name}" if preset.downloadable else "scalekv models lists models"
        raise UserError(
            f"{preset.name} cannot be the default: {state}",
            where=name,
            rule="the default model is one that is on this machine",
            fix=fix,
        )
    file = save_setting("model", name if name == preset.name else str(Path(name).absolute()))
    print(f"{preset.name} is now the default model (in {file})")
    chosen = Settings().get("model")
    if chosen.source is Source.ENVIRONMENT:
        print(f"but {chosen.origin}={chosen.value} comes first while it is set")


def _facts(preset: ModelPreset) -> dict[str, Any]:
    from scalekv.configs.settings import Settings
    from scalekv.configs.spec import EIGHT_BITS
    from scalekv.infinity_patch.files.inventory import full_cache, stored
    from scalekv.infinity_patch.planning.footprint import transformer_bytes
    from scalekv.infinity_patch.planning.planner import stored_weights
    from scalekv.infinity_patch.schedules import size_of

    here = stored(preset)
    width, height = size_of(preset, preset.ratio, preset.pixels)
    return {
        "name": preset.name,
        "summary": preset.summary,
        "licence": preset.licence,
        "state": here.state.value,
        "disk_bytes": here.nbytes,
        "download_bytes": preset.sizes.total if preset.sizes else 0,
        "full_cache_bytes": full_cache(preset),
        "weights_dtype": stored_weights(preset),
        "transformer_bytes": {
            kind: sum(transformer_bytes(preset, "bf16", kind)) for kind in ("bf16", *EIGHT_BITS)
        },
        "picture": {"width": width, "height": height},
        "default": Settings().get("model").value == preset.name,
    }


def _print_list(facts: list[dict[str, Any]]) -> None:
    from scalekv.cli.console.layout import Column, Paragraph, ResultTable
    from scalekv.cli.console.stdout import show
    from scalekv.kv.sizes import human_bytes

    columns = (
        Column("model", right=False),
        Column("weights", right=False),
        Column("picture", rank=3),
        Column("on disk", rank=1),
        Column("full cache", rank=2),
        Column("licence", rank=4, right=False, style="dim"),
    )
    rows = []
    for row in facts:
        on_disk = human_bytes(row["disk_bytes"]) if row["disk_bytes"] else ""
        if not on_disk and row["download_bytes"]:
            on_disk = f"({human_bytes(row['download_bytes'])})"
        rows.append(
            (
                row["name"] + (" *" if row["default"] else ""),
                row["state"],
                "{width}x{height}".format(**row["picture"]),
                on_disk,
                human_bytes(row["full_cache_bytes"]),
                row["licence"],
            )
        )
    notes = (
        "* the default. Picture: pixels of a square one. On disk: in brackets what is to be "
        "downloaded, as far as known. Full cache: one picture with guidance, in bf16. The text "
        "encoder is shared."
    )
    show(ResultTable(columns, rows), Paragraph(notes, "dim"))
