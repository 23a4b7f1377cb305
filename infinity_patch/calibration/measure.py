"""Measures a model's attention on prompts and concludes drafters, a HeatKV order and how sparse
attention is. Writes no files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date
from functools import cached_property
from importlib.metadata import version
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scalekv.configs.budget_files import drafters_from
from scalekv.infinity_patch.asked.settled import Settled
from scalekv.infinity_patch.calibration.coded import ConstantsMeasure
from scalekv.infinity_patch.calibration.plan import (
    CalibrationPlan,
    CalibrationRequest,
    check_blocks_stay,
    pictures_of,
    plan_of,
)
from scalekv.infinity_patch.files.hashes import prompts_sha256, weights_sha256
from scalekv.infinity_patch.files.hub import model_files
from scalekv.infinity_patch.generation.patch import patched
from scalekv.infinity_patch.generation.pipeline import Picture, Progress, generate, settled_on
from scalekv.infinity_patch.loading.loader import Pipeline
from scalekv.kv.budgets.asked import BudgetSpec
from scalekv.kv.budgets.heat_order import Order, order_from_mass
from scalekv.kv.caches.attending import Observer
from scalekv.kv.calibration.drafting import (
    CARRIED,
    agreement,
    mass_of_later_scales,
    nested_drafters,
    selectivity,
    share_carrying,
    z_scores,
)
from scalekv.kv.calibration.statistics import AttentionMeans, AttentionStatistics
from scalekv.kv.coded.constants import Constants

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Provenance:
    """Where a calibration comes from: what was measured, with what, when.

    weights: SHA-256 of the transformer's file or files; prompts_sha256: see
    `scalekv.infinity_patch.files.hashes`; settings: how the pictures were sampled.
    """

    program: str
    date: str
    model: str
    weights: str
    prompts: int
    prompts_sha256: str
    seed: int
    schedule: str
    sequences: str
    index: str
    top: int
    pairs: int
    first_scale: int
    budget: str
    settings: dict[str, Any]

    def line(self) -> str:
        """All but the settings, as a budget file says it."""
        return (
            f"calibrated by {self.program} on {self.date}: {self.model}, weights sha256 "
            f"{self.weights}; {self.prompts} prompts, sha256 {self.prompts_sha256}, seeds from "
            f"{self.seed}; schedule {self.schedule}; {self.sequences}; index {self.index}, "
            f"K' {self.top}, N_d {self.pairs} pairs of layer and scale from scale "
            f"{self.first_scale} on, where {self.budget} begins to drop"
        )


@dataclass(frozen=True, eq=False)
class Calibration:
    """What was measured, and what follows. Scales and layers count from 0; see
    `scalekv.kv.calibration.statistics.AttentionMeans` for the shapes."""

    plan: CalibrationPlan
    provenance: Provenance
    means: AttentionMeans
    layers: int
    constants: Constants | None = None

    @cached_property
    def index(self) -> Numbers:
        """(K, N, H) the index that was asked for, per head."""
        return selectivity(self.means.own, self._concentration)

    @property
    def layer_index(self) -> Numbers:
        """(K, N) the index of a layer: the mean of its heads'."""
        layers: Numbers = self.index.mean(-1)
        return layers

    @cached_property
    def scores(self) -> Numbers:
        """(K, N) z-scores of `layer_index` within each scale; NaN at scale 0."""
        return z_scores(self.layer_index)

    @cached_property
    def drafters(self) -> dict[int, tuple[int, ...]]:
        """{scale: its drafters} where tokens are dropped."""
        return nested_drafters(self.scores, self.plan.scales, self.plan.pairs)

    @property
    def halves_agree(self) -> float | None:
        """Share of drafter pairs that two halves of the prompts agree on; None for one prompt."""
        return agreement(self.means.own, self._concentration, self.plan.scales, self.plan.pairs)

    @cached_property
    def later_mass(self) -> Numbers:
        """(K - 1, N, H) attention each source scale gets from later ones."""
        return mass_of_later_scales(self.means.mass)

    def spec(self, name: str) -> BudgetSpec:
        """The budget file's content."""
        return BudgetSpec(
            name=name,
            model=self.provenance.model,
            layers=self.layers,
            drafters=drafters_from(self.drafters),
            mean=self.plan.asked.mean,
            percent=self.plan.asked.percent,
            provenance=self.provenance.line(),
        )

    def order(self) -> Order:
        """Ranks heads for HeatKV.

        Raises:
            UserError: the pictures have too few scales to drop any.
        """
        return order_from_mass(self.later_mass.tolist())

    def sparsity(self) -> dict[str, Any]:
        """How few (layer, head, source scale) pairs carry 99 % of the attention.

        earlier: of that on earlier scales, by all later ones; earlier_by_scale: by each scale's
        queries (None at scale 0); all_by_scale: of all attention, the current map's included.
        """
        mass = self.means.mass
        scales = range(len(mass))
        return {
            "carried": CARRIED,
            "earlier": share_carrying(self.later_mass),
            "earlier_by_scale": [share_carrying(mass[k, :k]) if k else None for k in scales],
            "all_by_scale": [share_carrying(mass[k, : k + 1]) for k in scales],
        }

    def entropy(self) -> dict[str, Any]:
        """Bits of a query's attention per scale, mean over layers and heads; and the most there
        could be."""
        schedule = self.means.schedule
        totals = [schedule.before(scale + 1) for scale in range(len(schedule))]
        return {
            "bits_by_scale": self.means.entropy.mean((1, 2)).tolist(),
            "most_by_scale": [float(np.log2(total)) for total in totals],
        }

    def summary(self) -> dict[str, Any]:
        """The main results as JSON; scales are numbered from 1, as in budget files."""
        agree = self.halves_agree
        return {
            "provenance": asdict(self.provenance),
            "drafters": {str(scale + 1): list(row) for scale, row in self.drafters.items()},
            "halves_agree": agree,
            "sparsity": _rounded(self.sparsity()),
            "entropy": _rounded(self.entropy()),
        }

    def profile(self) -> dict[str, Any]:
        """What policies that give heads or layers budgets of their own read of a calibration; see
        `scalekv.kv.calibration.profile`."""
        means = self.means
        numbers: dict[str, Any] = _rounded(
            {
                "own_mass": means.own.mean(0).tolist(),
                "entropy_bits": means.entropy.tolist(),
                "attention_variance": means.variance.tolist(),
                "key_change": means.change.tolist(),
            }
        )
        return numbers

    def to_dict(self) -> dict[str, Any]:
        """Every number. Axes in this order, all from 0: scale (target), source scale, layer,
        head; null where there is nothing to measure."""
        means = self.means
        return {
            **self.summary(),
            "pictures": means.pictures,
            "index": _rounded(self.layer_index.tolist()),
            "index_by_head": _rounded(self.index.tolist()),
            "z_scores": _rounded(self.scores.tolist()),
            "top_mass": _rounded(means.top.mean(0).tolist()),
            "top_share": _rounded(means.focus.mean(0).tolist()),
            **self.profile(),
            "s_cas": _rounded(means.mass.tolist()),
            "mass_of_later_scales": _rounded(self.later_mass.tolist()),
        }

    @property
    def _concentration(self) -> Numbers:
        return self.means.top if self.provenance.index == "paper" else self.means.focus


def calibrate(
    pipeline: Pipeline,
    request: CalibrationRequest,
    *,
    on_progress: Callable[[Progress], None] | None = None,
    on_picture: Callable[[Picture], None] | None = None,
) -> Calibration:
    """Generate the pictures with the full cache and measure where attention goes; with
    `request.coded` twice, for the constants of a coded cache too.

    Args:
        on_progress, on_picture: called as each scale, each picture is done, every time.

    Raises:
        UserError: a request that cannot be fulfilled, before the first picture.
    """
    plan = plan_of(request, pipeline.preset)
    check_blocks_stay(request, pipeline.model.stream is not None)
    settled = settled_on(pipeline, pictures_of(request))
    pictures, guided = settled.request, settled.guided
    coded_prompts = pictures.prompts[: request.pictures_coded]
    layers = pipeline.preset.transformer.depth
    statistics = AttentionStatistics(
        plan.schedule,
        layers,
        request.top,
        halves=2 if guided else 1,
        conditional=not request.both_halves,
    )
    # first what may be refused: nothing measured is lost then
    weights = weights_sha256(model_files(pipeline.preset, pipeline.weights_dir).transformer)
    coded = None
    if request.coded:
        few = settled_on(pipeline, replace(pictures_of(request), prompts=coded_prompts))
        coded = ConstantsMeasure(pipeline, few, gradients=request.gradients)
    settings: dict[str, Any] = {}

    def through(pictures: Settled, observers: Sequence[tuple[Observer, int]]) -> None:
        """Draws pictures, the first so many of them before each observer."""
        number = 0

        def observe(*call: Any) -> None:
            for observer, count in observers:
                if number < count:
                    observer(*call)

        with patched(pipeline.model, "full", schedule=plan.schedule) as caches:
            caches.observer = observe
            for number, picture in enumerate(  # noqa: B007 - observe reads it
                generate(pipeline, pictures, on_progress=on_progress), 1
            ):
                settings.update(settings or picture.settings)
                if on_picture is not None:
                    on_picture(picture)

    all_pictures = (statistics, len(pictures.prompts))
    if coded is None:
        through(settled, [all_pictures])
    else:
        through(settled, [all_pictures, (coded.first, request.pictures_coded)])
        with coded.watching():
            through(few, [(coded.second, request.pictures_coded)])
    sequences = "both guidance halves" if request.both_halves else "the conditional half"
    provenance = Provenance(
        program=f"scalekv {version('scalekv')}",
        date=date.today().isoformat(),
        model=pipeline.preset.name,
        weights=weights,
        prompts=len(pictures.prompts),
        prompts_sha256=prompts_sha256(pictures.prompts),
        seed=pictures.seed,
        schedule=str(plan.schedule),
        sequences=sequences if guided else "no guidance",
        index=request.index,
        top=request.top,
        pairs=plan.pairs,
        first_scale=plan.scales[0] + 1,
        budget=plan.asked.label,
        settings={k: v for k, v in settings.items() if k not in _OF_ONE_PICTURE},
    )
    constants = None
    if coded:
        of_few = replace(
            provenance, prompts=len(coded_prompts), prompts_sha256=prompts_sha256(coded_prompts)
        )
        known = asdict(of_few).items()
        constants = coded.constants({name: x for name, x in known if name not in _OF_ATTENTION})
    return Calibration(plan, provenance, statistics.means(), layers, constants)


_OF_ATTENTION = ("sequences", "index", "top", "pairs", "first_scale", "budget")
_OF_ONE_PICTURE = ("prompt", "seed", "policy", "budget", "budget_tokens", "budget_origin")


def _rounded(value: Any) -> Any:
    """The same with six digits a number, which float32 measurements have, and None for NaN."""
    if isinstance(value, dict):
        return {key: _rounded(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_rounded(entry) for entry in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if isfinite(value) else None
    return value
