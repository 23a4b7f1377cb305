"""Measures a model's keys and values on prompts and concludes the constants of a coded cache.
Writes no files."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from scalekv.infinity_patch.asked.settled import Settled
from scalekv.infinity_patch.calibration.gradients import LastScaleGradients
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

    def __init__(
        self, pipeline: Pipeline, settled: Settled, groups: int = GROUPS, gradients: bool = False
    ) -> None:
        """
        Args:
            groups: see `Constants.variance_channel`.
            gradients: weigh errors by gradients instead of attention weights.
        """
        spec = pipeline.preset.transformer
        self._settled, self._groups = settled, groups
        self._schedule = settled.schedule
        self._turns = _turns(self._schedule, spec.head_dim, pipeline.device)
        self._outputs: list[Any] = [module.proj for module in self_attentions(pipeline.model)]
        parts = 2 if settled.guided else 1
        self.moments = Moments(self._schedule, spec.depth, spec.heads, spec.head_dim, parts)
        self._spectra: Spectra | None = None
        self._gradients = LastScaleGradients(pipeline, settled, self._differ) if gradients else None

    def watching(self) -> AbstractContextManager[None]:
        """A block in which the second pass is made."""
        return nullcontext() if self._gradients is None else self._gradients.watching()

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
            with torch.inference_mode(False):  # gradients are added up outside of it
                means, basis = self.moments.means(), self.moments.basis()
                by_gradients = self._gradients is not None
                self._spectra = Spectra(self._schedule, means, basis, by_gradients)
        if scale + 1 < len(schedule):
            rows = slice(schedule.before(scale), schedule.before(scale + 1))
            self._spectra.add(layer, scale, k[:, :, rows], v[:, :, rows], self._turns[rows])
        elif self._gradients is None:
            self._spectra.weigh(layer, q, k, v, weights_of(self._outputs[layer]))
        else:
            self._gradients.seen(layer, k, v)

    def _differ(self, layer: int, which: int, gradients: Tensor) -> None:
        assert self._spectra is not None
        self._spectra.add_gradients(layer, which, gradients, self._turns)

    def constants(self, about: dict[str, Any]) -> Constants:
        """The constants, once both passes were made; `about` says what else they come from."""
        assert self._spectra is not None, "the second pass was not made"
        found = measured(
            self._schedule, self._settled.request.pictures, self.moments, self._spectra
        )
        facts = {
            "cfg": list(self._settled.cfg),
            "guided": self._settled.guided,
            "importance": "attention weights of the last scale"
            if self._gradients is None
            else "gradients of the last scale's bits",
        }
        return constants_from(found, self._groups, {**about, **facts})


def _turns(schedule: Schedule, head_dim: int, device: torch.device) -> Tensor:
    """(T, D / 2) complex of all tokens."""
    table = rotary_table(schedule.scales, grid_of(schedule), head_dim)
    return torch.complex(table[0, 0, 0, 0], table[1, 0, 0, 0]).to(device)
