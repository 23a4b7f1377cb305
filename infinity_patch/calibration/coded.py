"""Measures a model's keys and values on prompts and concludes the constants of a coded cache.
Writes no files."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from importlib.metadata import version

import torch
from torch import Tensor

from scalekv.infinity_patch.asked.request import Request
from scalekv.infinity_patch.asked.settled import schedule_of
from scalekv.infinity_patch.files.hashes import prompts_sha256, weights_sha256
from scalekv.infinity_patch.files.hub import model_files
from scalekv.infinity_patch.generation.patch import patched, self_attentions
from scalekv.infinity_patch.generation.pipeline import Picture, Progress, generate, guidance_of
from scalekv.infinity_patch.loading.loader import Pipeline
from scalekv.infinity_patch.model.rotary import rotary_table
from scalekv.infinity_patch.schedules import grid_of
from scalekv.kv.caches.caches import Observer
from scalekv.kv.coded.constants import Constants
from scalekv.kv.coded.fitting import constants_from
from scalekv.kv.coded.statistics import Moments, Spectra, measured
from scalekv.kv.coded.units import BANDS
from scalekv.kv.schedule import Schedule

GROUPS = 1 + BANDS
"""Channels' variances by band: see `Constants.variance_channel`."""

PASSES = 2


def measure_constants(
    pipeline: Pipeline,
    pictures: Request,
    *,
    on_progress: Callable[[Progress], None] | None = None,
    on_picture: Callable[[Picture], None] | None = None,
    groups: int = GROUPS,
) -> Constants:
    """Generates the pictures twice with the full cache and measures keys, values and attention.

    Args:
        pictures: one at a time, full cache.
        on_progress, on_picture: called as each scale, each picture is done, of both passes.
        groups: see `Constants.variance_channel`.

    Raises:
        UserError: a request that cannot be fulfilled, before the first picture.
    """
    schedule = schedule_of(pictures, pipeline.preset)
    guidance = guidance_of(pictures, pipeline, schedule)
    spec = pipeline.preset.transformer
    parts = 2 if guidance.needed else 1
    turns = _turns(schedule, spec.head_dim, pipeline.device)

    def through(observer: Observer) -> None:
        with patched(pipeline.model, "full", schedule=schedule) as caches:
            caches.observer = observer
            for picture in generate(pipeline, pictures, on_progress=on_progress):
                if on_picture is not None:
                    on_picture(picture)

    moments = Moments(schedule, spec.depth, spec.heads, spec.head_dim, parts)
    through(_newest(moments.add, turns))
    spectra = Spectra(schedule, moments.means(), moments.basis())
    add = _newest(spectra.add, turns)
    outputs = [module.proj for module in self_attentions(pipeline.model)]

    def spectrum(
        layer: int, scale: int, schedule: Schedule, q: Tensor, k: Tensor, v: Tensor
    ) -> None:
        add(layer, scale, schedule, q, k, v)
        if scale + 1 == len(schedule):
            spectra.weigh(layer, q, k, v, outputs[layer].weight)

    through(spectrum)
    about = {
        "program": f"scalekv {version('scalekv')}",
        "date": date.today().isoformat(),
        "model": pipeline.preset.name,
        "weights": weights_sha256(model_files(pipeline.preset, pipeline.weights_dir).transformer),
        "prompts": len(pictures.prompts),
        "prompts_sha256": prompts_sha256(pictures.prompts),
        "seed": pictures.seed,
        "schedule": str(schedule),
        "cfg": list(guidance.cfg),
        "guided": guidance.needed,
        "importance": "attention weights of the last scale",
    }
    found = measured(schedule, pictures.pictures, moments, spectra)
    return constants_from(found, groups, about)


def _newest(add: Callable[[int, int, Tensor, Tensor, Tensor], None], turns: Tensor) -> Observer:
    """Hands on the keys and values of each map that a later one will read."""

    def observe(
        layer: int, scale: int, schedule: Schedule, q: Tensor, k: Tensor, v: Tensor
    ) -> None:
        if scale + 1 < len(schedule):
            rows = slice(schedule.before(scale), schedule.before(scale + 1))
            add(layer, scale, k[:, :, rows], v[:, :, rows], turns[rows])

    return observe


def _turns(schedule: Schedule, head_dim: int, device: torch.device) -> Tensor:
    """(T, D / 2) complex of all tokens."""
    table = rotary_table(schedule.scales, grid_of(schedule), head_dim)
    return torch.complex(table[0, 0, 0, 0], table[1, 0, 0, 0]).to(device)
