"""The command `scalekv convert`: a copy of a model's weights that loads by being mapped."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from scalekv.cli import options as given

if TYPE_CHECKING:
    from scalekv.infinity_patch.loading.convert import Conversion, ConversionProgress

HELP = (
    "Write a copy of the model NAME in the precision it runs in, which loads in seconds.\n\n"
    "Published checkpoints are float32, twice what the blocks need. The copy is a folder with "
    "safetensors files and a preset, NAME.yaml, whose path goes to stdout: --model takes it. "
    "Nothing is overwritten, and nothing is there before everything is."
)
EPILOG = """
Examples:

  scalekv convert infinity-2b

  scalekv convert infinity-8b --weights int8

  scalekv convert infinity-2b --weights-dir downloads --out /data/infinity-2b --text-encoder bf16

  scalekv generate "a red apple" --model infinity-2b-bf16/infinity-2b.yaml
"""


def _precisions() -> tuple[str, ...]:
    from scalekv.configs.spec import DTYPES
    from scalekv.configs.values import AUTO

    return tuple(name for name in DTYPES if name != AUTO)


def convert(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="A model of `scalekv models`, or own.yaml.",
            show_default=False,
            autocompletion=given.completes_models(lambda preset: preset.released),
        ),
    ],
    dtype: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Precision of the blocks: bf16, fp16 or fp32.",
            autocompletion=given.completes_words(_precisions),
        ),
    ] = "bf16",
    weights: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="How the copy has the weights of the blocks' linear layers: int8 or fp8, half of "
            "bf16; auto is --dtype's, or what the files have already.",
            autocompletion=given.completes("weights"),
        ),
    ] = "auto",
    out: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="Folder for the copy, new or empty." + given.default_note("NAME-bf16"),
        ),
    ] = None,
    weights_dir: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Folder with the model's files."),
    ] = None,
    text_encoder: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Copy the text encoder too, without the decoder, in this precision; without it "
            "the copy goes on using the model's own.",
            autocompletion=given.completes_words(_precisions),
        ),
    ] = None,
    shard_size: Annotated[
        str,
        typer.Option(
            metavar="SIZE", help="The most one file holds, which is also the memory it takes."
        ),
    ] = "2GB",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check, say what it comes to, write nothing.")
    ] = False,
    json: given.Json = False,
    quiet: given.Quiet = None,
) -> None:
    """The command; its help is `HELP`."""
    from pathlib import Path

    from scalekv.cli.console.bytes import ByteDisplay
    from scalekv.cli.console.errors import Interrupted, stderr
    from scalekv.cli.console.interrupts import interruptible
    from scalekv.cli.console.stdout import say_json
    from scalekv.configs.models import model_named
    from scalekv.configs.settings import Settings
    from scalekv.configs.values import AUTO
    from scalekv.kv.sizes import human_bytes, parse_size

    # 1. all that can be refused before anything is written
    preset = model_named(name, "NAME")
    most = parse_size(shard_size, "--shard-size", "2GB")
    settings = Settings()
    folder = settings.get("weights_dir", weights_dir).read()
    silent = settings.get("quiet", quiet).read()
    kind = dtype if weights == AUTO else weights
    target = Path(out) if out is not None else Path(f"{preset.name}-{kind}")
    if out is not None and not out.strip():
        raise _nameless()
    from scalekv.infinity_patch.loading.convert import convert as write
    from scalekv.infinity_patch.loading.convert import plan_conversion

    plan = plan_conversion(
        preset,
        target,
        dtype=dtype,
        weights=weights,
        text_dtype=text_encoder,
        weights_dir=folder,
        shard_bytes=most,
    )
    facts = _facts(plan)
    if dry_run:
        summary = f"{human_bytes(plan.nbytes)} into {plan.out}"
        say_json(facts) if json else print(summary)
        return
    # 2. the copy
    with ByteDisplay(stderr(), quiet=silent) as display:
        display.say(f"{preset.name}: {human_bytes(plan.nbytes)} to write into {plan.out}")

        def show(progress: ConversionProgress) -> None:
            display.show(progress.file, progress.done, progress.total)

        try:
            with interruptible():
                file = write(plan, show)
        except KeyboardInterrupt:
            display.say(f"nothing is left in {plan.out.parent}")
            raise Interrupted from None
    if json:
        say_json({**facts, "path": str(file)})
    else:
        print(file)


def _facts(plan: Conversion) -> dict[str, Any]:
    return {
        "model": plan.preset.name,
        "out": str(plan.out),
        "dtype": plan.dtype,
        "weights_dtype": plan.weights,
        "bytes": plan.nbytes,
        "parts": {
            **{part.name: part.nbytes for part in plan.parts},
            **({"text_encoder": plan.text_bytes} if plan.text_bytes else {}),
        },
    }


def _nameless() -> Exception:
    from scalekv.kv.errors import UserError

    return UserError("the folder has no name", where="--out", fix="name one, or leave --out out")
