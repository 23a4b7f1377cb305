"""The command `scalekv download`: fetches a model's files, or says what that would come to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from scalekv.infinity_patch.files.download import DownloadProgress, Plan

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
            metavar="NAME", help="A model of `scalekv models`, or own.yaml.", show_default=False
        ),
    ],
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="List files and sizes as the hub states them; fetch none."),
    ] = False,
    json: Annotated[
        bool, typer.Option("--json", help="One JSON object on stdout instead of lines.")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Nothing on stderr but errors.")
    ] = False,
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
    from scalekv.kv.sizes import human_bytes

    # 1. all that can be refused before anything is fetched
    settings = Settings()
    preset = model_named(name, "NAME")
    plan = plan_download(preset)
    facts = _facts(plan)
    if dry_run:
        say_json(facts) if json else _print_plan(plan)
        return
    check_disk(plan)
    # 2. the files
    to_fetch = plan.to_fetch
    with ByteDisplay(stderr(), quiet=quiet) as display:
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
        file = save_setting("model", name if name == preset.name else str(_absolute(name)))
        display.say(
            f"{preset.name} is now the default model (in {file}); "
            "scalekv models default emoji takes that back"
        )
    places = {
        "transformer": str(paths.transformer),
        "vae": str(paths.vae),
        "text_encoder": str(paths.text_encoder),
    }
    if json:
        result = {**facts, "fetched_bytes": to_fetch, "paths": places, "default": becomes_default}
        say_json(result)
    else:
        print("\n".join(places.values()))


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
