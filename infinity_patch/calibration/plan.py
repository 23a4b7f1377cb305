"""A calibration's request, and what can be settled or refused before weights are read. No torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from scalekv.configs.models import ModelPreset
from scalekv.infinity_patch.asked.check import check
from scalekv.infinity_patch.asked.request import Request
from scalekv.infinity_patch.asked.settled import Settled, schedule_of
from scalekv.kv.budgets.asked import BudgetRequest, parse_budget, percent_tokens
from scalekv.kv.calibration.drafting import usual_drafters
from scalekv.kv.coded.plan import calibration_bytes
from scalekv.kv.errors import UserError, check_one_of
from scalekv.kv.memory.predicted import CacheShape
from scalekv.kv.schedule import Schedule

INDICES = ("paper", "share")
"""Ways to tell drafters; see `scalekv.kv.calibration.drafting.selectivity`."""

CODED_PROMPTS = 8
"""How many prompts the constants of a coded cache are measured on, where nobody says."""

ACTIVATIONS = 15
"""Of one block on the way back, in copies of the residual stream."""

TOP = 16
"""K', which the paper does not state: as many tokens as the observation window keeps anyway."""


@dataclass(frozen=True)
class CalibrationRequest:
    """What to measure, and what to conclude from it.

    pictures: prompts, seed, size and sampling; what it says about caches is not used. budget: "10%"
    or tokens, which decides at what scales tokens are dropped and is what the file asks for.
    drafters: drafters per such scale in the mean; None takes `usual_drafters`. top: K'. index: one
    of `INDICES`. both_halves: measure the unconditional half of guidance too. coded: measure the
    constants of a coded cache as well, on the first `coded_prompts` pictures (None:
    `CODED_PROMPTS`), which are drawn twice. gradients: weigh errors in them by gradients of the
    last scale's bits instead of attention weights.
    """

    pictures: Request
    budget: str = "10%"
    drafters: float | None = None
    top: int = TOP
    index: str = INDICES[0]
    both_halves: bool = False
    coded: bool = False
    gradients: bool = False
    coded_prompts: int | None = None

    @property
    def pictures_coded(self) -> int:
        """How many of the pictures the constants of a coded cache are measured on."""
        if not self.coded:
            return 0
        return min(self.coded_prompts or CODED_PROMPTS, len(self.pictures.prompts))


@dataclass(frozen=True)
class CalibrationPlan:
    """A request settled for a model.

    scales: those at which tokens are dropped, from 0. pairs: N_d, drafter pairs (layer, scale).
    asked: the budget as parsed, in percent or tokens.
    """

    schedule: Schedule
    scales: tuple[int, ...]
    pairs: int
    asked: BudgetRequest


def check_calibration(
    request: CalibrationRequest,
    preset: ModelPreset,
    weights_dir: Path | None = None,
    dtype: str = "auto",
    device: str = "auto",
    offload: bool = False,
) -> Settled:
    """Refuse what cannot work, before anything heavy is loaded.

    Args:
        dtype, device: as for `scalekv.infinity_patch.asked.check.check`.
        offload: blocks are on the device only while they compute.

    Returns:
        What the pictures to measure come to.

    Raises:
        UserError: the first thing found wrong, with the rule and the fix.
    """
    plan_of(request, preset)
    check_blocks_stay(request, offload)
    return check(pictures_of(request), preset, weights_dir, dtype, device)


def check_blocks_stay(request: CalibrationRequest, offload: bool) -> None:
    """Refuses gradients where blocks are on the device only while they compute.

    Raises:
        UserError: there are none then, for blocks are computed anew on the way back.
    """
    if request.gradients and offload:
        raise UserError(
            "gradients go through all blocks backwards, and only one of them is on the device",
            where="--gradients",
            rule="the transformer stays on the device",
            fix="leave out --offload, or --gradients",
        )


def measuring_bytes(
    schedule: Schedule, shape: CacheShape, text_tokens: int, gradients: bool
) -> tuple[int, int]:
    """Bytes that measuring a coded cache's constants takes beside a full cache, at most: where
    attention computes, and in the host's memory.

    Args:
        shape: of one picture's cache.
        text_tokens: of a prompt.
    """
    device, host = calibration_bytes(schedule, shape, gradients)
    if gradients:
        device = max(device, gradient_bytes(schedule, shape, text_tokens))
    return device, host


def gradient_bytes(schedule: Schedule, shape: CacheShape, text_tokens: int) -> int:
    """Bytes that the gradients of a last scale take beside a full cache, at most: a copy of the
    history and of the texts, every block's input, and what one block computes."""
    residual = 4 * shape.sequences * schedule.tokens[-1] * shape.heads * shape.head_dim
    copies = shape.full_bytes(schedule) + shape.bytes_of(text_tokens)
    return copies + (shape.layers + ACTIVATIONS) * residual


def pictures_of(request: CalibrationRequest) -> Request:
    """The pictures to measure: everything is kept, as attention computes it, and each picture is a
    batch of its own, so that all count the same."""
    return replace(
        request.pictures,
        policy=None,
        budget=None,
        drafters=None,
        kv_dtype="auto",
        kv_device="auto",
        batch_size=1,
    )


def plan_of(request: CalibrationRequest, preset: ModelPreset) -> CalibrationPlan:
    """Settles a calibration; looks at no file.

    Raises:
        UserError: a setting that cannot be, or a budget that drops nothing.
    """
    if not request.coded:
        for option, given in (
            ("--gradients", request.gradients),
            ("--coded-prompts", request.coded_prompts),
        ):
            if given:
                raise UserError(
                    f"{option} is of the constants of a coded cache, which are not asked for",
                    where=option,
                    rule="an option of --coded",
                    fix=f"--coded {option}",
                )
    schedule = schedule_of(request.pictures, preset)
    asked, mean = _amount(request.budget, schedule)
    scales = tuple(scale for scale in range(1, len(schedule)) if schedule.before(scale) > mean)
    if not scales:
        raise UserError(
            f"{request.budget} drops nothing: all {schedule.history} history tokens fit",
            where="--budget",
            rule="drafters are the layers that keep more where tokens are dropped",
            fix="--budget 10%",
        )
    if request.top < 1:
        raise UserError(f"K' is {request.top}", where="--top", rule="a whole number, at least 1")
    check_one_of(request.index, INDICES, f"no index {request.index!r}", "--index")
    layers = preset.transformer.depth
    per_scale = usual_drafters(layers) if request.drafters is None else request.drafters
    pairs = round(per_scale * len(scales)) if 0 < per_scale < layers else 0
    if not 0 < pairs < layers * len(scales):
        raise UserError(
            f"{per_scale:g} drafters per scale",
            where="--drafters",
            rule=f"at least one pair of layer and scale is a drafter, and one of the {layers} "
            f"layers at {len(scales)} scales is not",
            fix=f"--drafters {usual_drafters(layers)}",
        )
    return CalibrationPlan(schedule, scales, pairs, asked)


def _amount(budget: str, schedule: Schedule) -> tuple[BudgetRequest, int]:
    """What was asked for, and the mean tokens per layer that it comes to."""
    asked = parse_budget(budget)
    if asked.percent is not None:
        return asked, percent_tokens(schedule, asked.percent)
    if asked.mean is not None:
        return asked, asked.mean
    raise UserError(
        f"cannot calibrate for the budget {budget}",
        where="--budget",
        rule="a percentage of the history (10%) or mean tokens per layer (650)",
        fix="--budget 10%",
    )
