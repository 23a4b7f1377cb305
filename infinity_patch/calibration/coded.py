"""Measures a model's keys and values on prompts and concludes the constants of a coded cache.
Writes no files."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from scalekv.infinity_patch.asked.settled import Settled
from scalekv.infinity_patch.compute.products import weights_of
from scalekv.infinity_patch.generation.patch import self_attentions
from scalekv.infinity_patch.loading.loader import Pipeline
from scalekv.infinity_patch.model.rotary import rotary_table
from scalekv.infinity_patch.schedules import grid_of
from scalekv.kv.coded.constants import Constants
from scalekv.kv.coded.fitting import constants_from
from scalekv.kv.coded.statistics import Moments, Spectra, measured
from scalekv.kv.coded.units import BANDS
from scalekv.kv.schedule import Schedule

GROUPS = 1 + BANDS
"""Channels' variances by band: see `Constants.variance_channel`."""


class ConstantsMeasure:
    """Gathers what the constants need in two passes over the same pictures, drawn with the full
    cache one at a time.

    Attributes:
        moments: what the first pass gathers.
        first, second: observers of the passes, one after the other.
    """

    def __init__(self, pipeline: Pipeline, settled: Settled, groups: int = GROUPS) -> None:
        """`groups`: see `Constants.variance_channel`."""
        spec = pipeline.preset.transformer
        self._settled, self._groups = settled, groups
        self._schedule = settled.schedule
        self._turns = _turns(self._schedule, spec.head_dim, pipeline.device)
        self._outputs: list[Any] = [module.proj for module in self_attentions(pipeline.model)]
        parts = 2 if settled.guided else 1
        self.moments = Moments(self._schedule, spec.depth, spec.heads, spec.head_dim, parts)
        self._spectra: Spectra | None = None

    def first(
        self, layer: int, scale: int, schedule: Schedule, q: Tensor, k: Tensor, v: Tensor
    ) -> None:
        """See `scalekv.kv.caches.caches.Observer`: means, and a scatter a head."""
        if scale + 1 < len(schedule):
            rows = slice(schedule.before(scale), schedule.before(scale + 1))
            self.moments.add(layer, scale, k[:, :, rows], v[:, :, rows], self._turns[rows])

    def second(
        self, layer: int, scale: int, schedule: Schedule, q: Tensor, k: Tensor, v: Tensor
    ) -> None:
        """Likewise: variances in the bases, and attention of the last scale."""
        if self._spectra is None:
            self._spectra = Spectra(self._schedule, self.moments.means(), self.moments.basis())
        if scale + 1 < len(schedule):
            rows = slice(schedule.before(scale), schedule.before(scale + 1))
            self._spectra.add(layer, scale, k[:, :, rows], v[:, :, rows], self._turns[rows])
        else:
            self._spectra.weigh(layer, q, k, v, weights_of(self._outputs[layer]))

    def constants(self, about: dict[str, Any]) -> Constants:
        """The constants, once both passes were made; `about` says what else they come from."""
        assert self._spectra is not None, "the second pass was not made"
        found = measured(
            self._schedule, self._settled.request.pictures, self.moments, self._spectra
        )
        facts = {
            "cfg": list(self._settled.cfg),
            "guided": self._settled.guided,
            "importance": "attention weights of the last scale",
        }
        return constants_from(found, self._groups, {**about, **facts})


def _turns(schedule: Schedule, head_dim: int, device: torch.device) -> Tensor:
    """(T, D / 2) complex of all tokens."""
    table = rotary_table(schedule.scales, grid_of(schedule), head_dim)
    return torch.complex(table[0, 0, 0, 0], table[1, 0, 0, 0]).to(device)
