"""The command `scalekv download`: fetches a model's files, or says what that would come to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from scalekv.cli import options as given

if TYPE_CHECKING:
    from scalekv.configs.models import ModelPreset
    from scalekv.infinity_patch.files.download import DownloadProgress, Plan
    from scalekv.infinity_patch.files.hub import ModelPaths

HELP = (
    "Fetch the files of the model NAME from the hub and check every one.\n\n"
    "Only what is needed is fetched; an interrupted download goes on where it was. The first model "
    "that is downloaded becomes the default one. Paths go to stdout, progress to stderr."
)
EPILOG = """
Examples:

  scalekv download infinity-125m --dry-run

  scalekv download infinity-2b

  HF_HOME=/data/hub scalekv download infinity-8b

Heeded variables: HF_HOME, HF_HUB_CACHE, HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE.
"""


def download(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="A model of `scalekv models`, or own.yaml.",
            show_default=False,
            autocompletion=given.completes_models(lambda preset: preset.downloadable),
        ),
    ],
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="List files and sizes as the hub states them; fetch none."),
    ] = False,
    json: given.Json = False,
    quiet: given.Quiet = None,
) -> None:
    """The command; its help is `HELP`."""
    from scalekv.cli.console.bytes import ByteDisplay
    from scalekv.cli.console.errors import Interrupted, stderr
    from scalekv.cli.console.interrupts import interruptible
    from scalekv.cli.console.stdout import say_json
    from scalekv.configs.models import model_named
    from scalekv.configs.settings import Settings, Source, save_setting
    from scalekv.infinity_patch.files.download import check_disk, plan_download
    from scalekv.infinity_patch.files.download import download as fetch
    from scalekv.kv.errors import UserError
    from scalekv.kv.sizes import human_bytes

    # 1. all that can be refused before anything is fetched
    settings = Settings()
    silent = settings.get("quiet", quiet).read()
    preset = model_named(name, "NAME")
    if not preset.downloadable and preset.released:
        _show_own(preset, json=json, quiet=silent)
        return
    plan = plan_download(preset)
    facts = _facts(plan)
    if dry_run:
        say_json(facts) if json else _print_plan(plan)
        return
    check_disk(plan)
    # 2. the files
    to_fetch = plan.to_fetch
    with ByteDisplay(stderr(), quiet=silent) as display:
        display.say(
            f"{preset.name}: {human_bytes(to_fetch)} of {human_bytes(plan.total)} to fetch"
            if to_fetch
            else f"{preset.name}: everything is here already" + _unasked()
        )

        def show(progress: DownloadProgress) -> None:
            file = progress.file.rpartition("/")[2]
            where = f"{progress.index + 1}/{progress.files} {file}"
            display.show(where, progress.done, progress.total)

        try:
            with interruptible():
                paths = fetch(plan, on_progress=show)
        except KeyboardInterrupt:
            display.say("what has arrived is kept; the same command goes on from there")
            raise Interrupted from None
    # 3. the first model becomes the default one
    becomes_default = settings.get("model").source is Source.DEFAULT
    if becomes_default:
        try:
            file = save_setting("model", name if name == preset.name else str(_absolute(name)))
            display.say(
                f"{preset.name} is now the default model (in {file}); "
                "scalekv models default emoji takes that back"
            )
        except UserError as error:  # the files are here, which is what was asked for
            becomes_default = False
            display.say(f"{preset.name} is not the default model: {error.what} ({error.where})")
    result = {**facts, "fetched_bytes": to_fetch, "default": becomes_default}
    _print_paths(paths, result if json else None)


def _show_own(preset: ModelPreset, *, json: bool, quiet: bool) -> None:
    """Says that a model that is not on the hub is here already; its preset names its files.

    Raises:
        WeightsMissing: one of them is not.
    """
    from scalekv.cli.console.bytes import ByteDisplay
    from scalekv.cli.console.errors import stderr
    from scalekv.infinity_patch.files.hub import model_files

    paths = model_files(preset)
    with ByteDisplay(stderr(), quiet=quiet) as display:
        why = "it comes with scalekv" if preset.built_in else "its files are its preset's own"
        display.say(f"{preset.name}: everything is here already, {why}")
    facts: dict[str, Any] = {
        "model": preset.name,
        "cache": None,
        "total_bytes": 0,
        "to_fetch_bytes": 0,
        "files": [],
        "fetched_bytes": 0,
        "default": False,
    }
    _print_paths(paths, facts if json else None)


def _print_paths(paths: ModelPaths, facts: dict[str, Any] | None) -> None:
    """Where the parts of a model are, a line each; as JSON beside `facts` where there are some."""
    from scalekv.cli.console.stdout import say_json

    places = {
        "transformer": str(paths.transformer),
        "vae": str(paths.vae),
        "text_encoder": str(paths.text_encoder),
    }
    if facts is None:
        print("\n".join(places.values()))
    else:
        say_json({**facts, "paths": places})


def _absolute(name: str) -> object:
    from pathlib import Path

    return Path(name).expanduser().absolute()


def _unasked() -> str:
    from huggingface_hub import constants

    return " (offline mode: the hub was not asked)" if constants.HF_HUB_OFFLINE else ""


def _facts(plan: Plan) -> dict[str, Any]:
    return {
        "model": plan.preset.name,
        "cache": str(plan.cache),
        "total_bytes": plan.total,
        "to_fetch_bytes": plan.to_fetch,
        "files": [
            {
                "part": file.part.label,
                "repo": file.part.repo,
                "commit": file.commit,
                "name": file.name,
                "bytes": file.size,
                "present": file.present(plan.cache),
                file.checksum.kind.lower().replace("-", "").replace(" ", "_"): file.checksum.digest,
            }
            for file in plan.files
        ],
    }


def _print_plan(plan: Plan) -> None:
    from scalekv.kv.sizes import human_bytes

    for file in plan.files:
        here = "  here already" if file.present(plan.cache) else ""
        print(f"{human_bytes(file.size):>10}  {file.part.repo}/{file.name}{here}")
    print(
        f"{human_bytes(plan.total):>10}  in all, {human_bytes(plan.to_fetch)} to fetch "
        f"into {plan.cache}{_unasked()}"
    )
