"""The command `scalekv doctor`: what could keep a picture from being made here, and the fix."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from scalekv.cli import options as given
from scalekv.configs.option import MACHINE

if TYPE_CHECKING:
    from scalekv.infinity_patch.planning.health import Finding

HELP = (
    "Check everything a picture needs: Python, torch, GPU and driver, memory, disk, weights.\n\n"
    "Each problem comes with its fix; with any, the exit code is 1. Nothing is changed or fetched."
)
EPILOG = """
Examples:

  scalekv doctor

  scalekv doctor --model infinity-2b --full

  scalekv doctor --json | jq -r '.findings[] | select(.level == "problem") | .fix'
"""


def doctor(
    model: given.Model = None,
    weights_dir: given.WeightsDir = None,
    out: given.Out = None,
    full: Annotated[
        bool,
        typer.Option(
            "--full",
            help="Read downloaded weights whole and compare them with the hub's hashes; gigabytes "
            "take minutes.",
            rich_help_panel=MACHINE,
        ),
    ] = False,
    json: given.Json = False,
) -> None:
    """The command; its help is `HELP`."""
    from scalekv.cli.console.errors import Unsuccessful
    from scalekv.cli.console.findings import show_finding
    from scalekv.cli.console.stdout import say_json
    from scalekv.infinity_patch.planning.health import Level

    findings = []
    for finding in _findings(model, weights_dir, out, full):
        findings.append(finding)
        if not json:
            show_finding(finding)
    problems = sum(finding.level is Level.PROBLEM for finding in findings)
    if json:
        listed = [{**vars(f), "level": f.level.value} for f in findings]
        say_json({"problems": problems, "findings": listed})
    if problems:
        count = "1 problem" if problems == 1 else f"{problems} problems"
        raise Unsuccessful(count, "problems")


def _findings(
    model: str | None, weights_dir: str | None, out: str | None, full: bool
) -> Iterator[Finding]:
    from scalekv.configs.models import model_named
    from scalekv.configs.settings import Settings
    from scalekv.infinity_patch.planning.health import Finding, Level, examine
    from scalekv.kv.errors import UserError

    rooms: list[Finding] = []
    try:
        settings = Settings()
        chosen = settings.get("model", model)
        preset = model_named(chosen.value, chosen.origin)
        place = f"{settings.path}" if settings.path.is_file() else f"{settings.path} is not there"
        yield Finding("settings", Level.FINE, f"{place}; model {preset.name} ({chosen.origin})")
        rooms.append(_room(model, weights_dir))  # before torch is there, which takes some itself
    except UserError as error:  # a finding too; the rest is checked with what holds without it
        yield Finding("settings", Level.PROBLEM, f"{error.what} ({error.where})", error.fix)
        settings = Settings({"SCALEKV_CONFIG": os.devnull})
        preset = model_named(settings.get("model").value)
    yield from examine(
        preset,
        settings.get("weights_dir", weights_dir).read(),
        settings.get("out", out).read(),
        text_cache=settings.get("text_cache").read(),
        thorough=full,
    )
    yield from rooms


def _room(model: str | None, weights_dir: str | None) -> Finding:
    """Whether memory is enough for what `scalekv generate` would do by default."""
    from scalekv.cli.choices import Options, choose
    from scalekv.cli.plan.room import CUDA, memory_given, planner_of
    from scalekv.infinity_patch.asked.settled import settle
    from scalekv.infinity_patch.machine.gpus import gpu_of
    from scalekv.infinity_patch.planning.health import Finding, Level, room
    from scalekv.infinity_patch.planning.lighter import lightened
    from scalekv.kv.errors import UserError

    try:
        choices = choose(Options(("a plan",), {"model": model, "weights_dir": weights_dir}))
        target = memory_given(None, choices.device)
        settled = settle(choices.request, choices.preset, target.device, choices.dtype)
        placement = choices.placement.for_known_prompts()
        assert target.memory is not None, target
        planner = planner_of(settled, placement, choices.weights_dir)
        planner, options = lightened(planner, target.memory, texts_known=True)
        gpu = gpu_of(choices.device) if target.device == CUDA else None
        free = None if gpu is None else gpu.free_bytes
        return room(planner, target.memory, target.name, free, options)
    except UserError as error:
        return Finding("room", Level.PROBLEM, f"{error.what} ({error.where})", error.fix)
