"""The same prompts under several policies: seconds, memory against the plan, distance to the full
cache, and what each policy makes of the full cache's bits. Knows pipelines; writes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean, median
from typing import Any

import torch
from PIL import Image

from scalekv.infinity_patch.asked.settled import Settled, settle
from scalekv.infinity_patch.generation.forced import (
    ForcedPicture,
    force_bits,
    forced_on_all,
    scale_means,
)
from scalekv.infinity_patch.generation.pipeline import Progress, generate
from scalekv.infinity_patch.loading.loader import Pipeline
from scalekv.infinity_patch.loading.placement import Placement
from scalekv.infinity_patch.machine.peaks import Stages
from scalekv.infinity_patch.planning.health import Finding, Level
from scalekv.infinity_patch.planning.planner import Planner, text_spec_of
from scalekv.infinity_patch.selftest.known import decibels
from scalekv.infinity_patch.selftest.parts import CHANCE, rounded
from scalekv.kv.errors import UserError
from scalekv.kv.sizes import human_bytes

PAPER, SHARE = "paper-10", "10%"
MOST_OVER_PLAN = 1.1
"""Times the plan that a stage may take: beyond it the plan is wrong for this model."""
HOST_SLACK = 256 << 20
"""Bytes over the plan that a process may have besides: what the tests before it left."""
DRAWN = ("encode", "scales", "decode")


@dataclass
class PolicyRun:
    """What a policy came to.

    Attributes:
        label: "full", "scalekv paper-10".
        settled: what it is asked for, with all prompts.
        pictures, seconds, held: of each prompt; bytes of keys and values at their peak.
        forced: of each prompt under the full cache's bits.
        peaks, planned: bytes of each stage.
        planned_held: bytes of keys and values at their peak, by arithmetic.
    """

    label: str
    settled: Settled
    pictures: list[Image.Image] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    held: list[int] = field(default_factory=list)
    forced: list[ForcedPicture] = field(default_factory=list)
    peaks: dict[str, int] = field(default_factory=dict)
    planned: dict[str, int] = field(default_factory=dict)
    planned_held: int = 0


def policies_for(full: Settled) -> Iterator[PolicyRun]:
    """The full cache, ScaleKV at the paper's 10 % where the model has that budget and at 10 % of
    the history elsewhere, and the coded cache where there are constants for the model and size."""
    yield PolicyRun("full", full)
    try:
        paper = _run(full, "scalekv", PAPER)
    except UserError:
        paper = None
    # at small sizes so many tokens are all there are
    yield _run(full, "scalekv", SHARE) if paper is None or paper.settled.idle else paper
    try:
        yield _run(full, "coded", SHARE)
    except UserError:  # no constants for this model, or not for this size
        return


def _run(full: Settled, policy: str, budget: str) -> PolicyRun:
    request = replace(full.request, policy=policy, budget=budget)
    settled = settle(request, full.preset, full.device, full.dtype)
    return PolicyRun(f"{policy} {budget}", settled)


def draw_all(
    pipeline: Pipeline,
    run: PolicyRun,
    placement: Placement,
    on_progress: Callable[[Progress], None],
) -> None:
    """Draws the prompts under a policy and takes the time and the peaks."""
    inventory, before = pipeline.stages.inventory, pipeline.stages
    pipeline.stages = Stages(pipeline.device)
    pipeline.stages.inventory = inventory
    try:
        for picture in generate(pipeline, run.settled, on_progress=on_progress):
            run.pictures.append(picture.image)
            run.seconds.append(picture.seconds)
            run.held.append(int(picture.cache["held_peak_bytes"]))
        peaks = pipeline.stages.peaks()
    finally:
        pipeline.stages = before
    on_device = pipeline.device.type == "cuda"
    kind = "allocated_peak_bytes" if on_device else "resident_peak_bytes"
    longest = max(len(pipeline.text.counter.encode(p).ids) for p in run.settled.request.prompts)
    text = text_spec_of(pipeline.preset, pipeline.weights_dir)
    plan = Planner(run.settled, placement, longest, text).footprint()
    run.planned_held = plan.cache.held_peak_bytes
    runtime = 0 if on_device else plan.stages["load"]["runtime"]
    for stage in DRAWN:
        run.peaks[stage] = peaks[stage][kind]
        run.planned[stage] = plan.totals[stage] + runtime


def force_all(
    pipeline: Pipeline, runs: Sequence[PolicyRun], on_picture: Callable[[int], None]
) -> None:
    """Feeds the full cache's bits of every prompt to every policy; the first run is the full cache,
    whose bits they are."""
    full, *others = runs
    request = full.settled.request
    for index, prompt in enumerate(request.prompts):
        seed = request.seed_of(index)
        settled = [run.settled for run in others]
        found = forced_on_all(pipeline, full.settled, settled, prompt, seed)
        for run, forced in zip(runs, found, strict=True):
            run.forced.append(forced)
        on_picture(index)


def examine_unpatched(pipeline: Pipeline, full: PolicyRun) -> Finding:
    """Whether the full cache draws what the model draws by itself, bit for bit."""
    request = full.settled.request
    prompt, seed = request.prompts[0], request.seed_of(0)
    own = force_bits(pipeline, full.settled, prompt, seed, unpatched=True)
    pairs = list(zip(own.bits, full.forced[0].bits, strict=True))
    if all(torch.equal(a, b) for a, b in pairs):
        return Finding("full cache", Level.FINE, "draws what the model draws by itself, every bit")
    same = sum(int((a == b).sum()) for a, b in pairs) / sum(a.numel() for a, _ in pairs)
    return Finding(
        "full cache",
        Level.PROBLEM,
        f"{same:.4%} of the bits are those that the model draws by itself, and all should be",
        "send this result back: the caches are at fault, or this device's attention",
    )


def examine_policies(pipeline: Pipeline, runs: Sequence[PolicyRun]) -> Iterator[Finding]:
    """What holds of every policy, and what does not."""
    full = runs[0]
    on_device = pipeline.device.type == "cuda"
    for run in runs:
        held, name = max(run.held), f"policy {run.label}"
        if held != run.planned_held:
            yield Finding(
                name,
                Level.PROBLEM,
                f"held {human_bytes(held)}, and {human_bytes(run.planned_held)} by arithmetic",
                "send this result back",
            )
        worst = max(DRAWN, key=lambda stage: run.peaks[stage] / run.planned[stage])
        over = run.peaks[worst] / run.planned[worst]
        slack = 0 if on_device else HOST_SLACK
        if over > MOST_OVER_PLAN and run.peaks[worst] > run.planned[worst] + slack:
            level = Level.PROBLEM if on_device else Level.NOTE
            kind = "" if on_device else ", of the whole process"
            found = (
                f"took {human_bytes(run.peaks[worst])} in the stage {worst}{kind}, "
                f"{human_bytes(run.planned[worst])} planned"
            )
            yield Finding(name, level, found, "send this result back" if on_device else "")
        surprise = fmean(forced.surprise for forced in run.forced)
        own = fmean(forced.surprise for forced in full.forced)
        if not surprise < CHANCE and own < CHANCE:
            yield Finding(
                name,
                Level.PROBLEM,
                f"gives the full cache's bits {surprise:.3f} bits of surprise each, and 1 is "
                "chance: it has lost the picture",
                "send this result back",
            )
        yield Finding(name, Level.FINE, _summary(run, full))


def _summary(run: PolicyRun, full: PolicyRun) -> str:
    agreement = fmean(forced.agreement for forced in run.forced)
    words = [
        f"{median(run.seconds):.2f} s a picture",
        f"{human_bytes(max(run.held))} held",
        f"{agreement:.2%} of the full cache's bits",
    ]
    if run is not full:
        words.append(f"{_middle(psnr_of(run, full))} dB to its pictures")
    return ", ".join(words)


def psnr_of(run: PolicyRun, full: PolicyRun) -> list[float]:
    """PSNR of every picture to the full cache's, in dB."""
    return [decibels(a, b) for a, b in zip(run.pictures, full.pictures, strict=True)]


def _middle(values: Sequence[float]) -> str:
    return f"{median(values):.1f}"


def figures_of(run: PolicyRun, full: PolicyRun) -> dict[str, Any]:
    """A policy's figures as JSON values; of pictures in the prompts' order, of scales from 1."""
    return {
        "label": run.label,
        "seconds": [round(seconds, 3) for seconds in run.seconds],
        "held_peak_bytes": max(run.held),
        "peak_bytes": run.peaks,
        "planned_bytes": run.planned,
        "psnr_db": None if run is full else [rounded(x) for x in psnr_of(run, full)],
        "agreement_by_picture": [rounded(forced.agreement) for forced in run.forced],
        "surprise_by_picture": [rounded(forced.surprise) for forced in run.forced],
        **scale_means(run.forced),
    }
