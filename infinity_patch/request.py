"""What a person asks for, and everything that can be refused before weights are read. No torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scalekv.configs.models import ModelPreset
from scalekv.infinity_patch.budgeting import BudgetLike, budget_maker
from scalekv.infinity_patch.hub import model_files
from scalekv.infinity_patch.policies import calibration_of
from scalekv.infinity_patch.schedules import schedule_for
from scalekv.kv.budget import Budget, Drafters
from scalekv.kv.errors import UserError
from scalekv.kv.policy import Policy, plan_named, planned, policy_and_file, takes_budget
from scalekv.kv.precision import check_kv_device, check_kv_dtype
from scalekv.kv.schedule import Schedule

PerScale = float | Sequence[float]
DEFAULT_POLICY = "scalekv"
DEFAULT_BUDGET = "10%"
MOST_SEED = 2**63 - 1
LEAST_TAU = 1e-3  # far below it, logits over temperature overflow


@dataclass(frozen=True)
class Request:
    """Pictures to generate.

    prompts: one or more; num_images: pictures of each. Picture i of all (prompts outermost) has
    the seed `seed` + i. policy and budget are "scalekv" and "10%" unless given, or those of the
    `with patched(...)` block the pictures are generated in; kv_dtype and kv_device are as there.
    cfg, tau: one number, or one per scale; None takes the preset's. ratio is width:height.
    reproducible: pictures run one at a time, so that a seed gives the same bits alone and among
    others (on a CPU they always do).
    """

    prompts: tuple[str, ...]
    policy: str | Policy | None = None
    budget: BudgetLike | None = None
    seed: int = 0
    num_images: int = 1
    cfg: PerScale | None = None
    tau: PerScale | None = None
    top_p: float | None = None
    ratio: str = "1:1"
    pixels: str | None = None
    negative: str | None = None
    truncate: bool = False
    reproducible: bool = False
    drafters: Drafters | None = None
    kv_dtype: str = "auto"
    kv_device: str = "auto"


def schedule_of(request: Request, preset: ModelPreset) -> Schedule:
    """The schedule the pictures are generated with."""
    if preset.ratios and request.ratio not in preset.ratios:
        schedule_for(request.ratio, preset.pixels)  # an unknown ratio has its own message
        raise UserError(
            f"{preset.name} was not made for the ratio {request.ratio}",
            where="--ratio",
            rule="its ratios are " + ", ".join(preset.ratios),
            fix=f"--ratio {preset.ratios[0]}, or another model",
        )
    if preset.ratios and request.pixels not in (None, preset.pixels):
        schedule_for(request.ratio, request.pixels)
        raise UserError(
            f"{preset.name} was not made for the pixel class {request.pixels}",
            where="--pixels",
            rule=f"its pictures are {preset.pixels}",
            fix="leave --pixels out, or take another model",
        )
    return schedule_for(request.ratio, request.pixels or preset.pixels)


def budget_of(request: Request, preset: ModelPreset, schedule: Schedule) -> Budget:
    """The budget the caches are held to (of a policy that takes one)."""
    layers = preset.transformer.depth
    asked = DEFAULT_BUDGET if request.budget is None else request.budget
    return budget_maker(asked, layers, preset.name, request.drafters)(schedule)


def planned_budget_of(request: Request, preset: ModelPreset, schedule: Schedule) -> Budget | None:
    """The budget as the policy plans it; None where the policy takes none.

    Raises:
        UserError: unknown policy, no calibration for it, or a budget it cannot work with.
    """
    asked = budget_of(request, preset, schedule)
    policy = DEFAULT_POLICY if request.policy is None else request.policy
    if not isinstance(policy, str):
        return planned(policy, asked) if takes_budget(policy) else None
    calibration = calibration_of(policy, preset.name)
    return plan_named(policy_and_file(policy)[0], asked, calibration)


def per_scale(value: PerScale, scales: int, where: str) -> tuple[float, ...]:
    """One value per scale from one number or a list.

    Raises:
        UserError: another number of values than scales, or one that is not finite.
    """
    values = (value,) * scales if isinstance(value, int | float) else tuple(value)
    if len(values) != scales:
        raise UserError(
            f"{len(values)} values for {scales} scales",
            where=where,
            rule="one number, or one per scale",
        )
    if not all(math.isfinite(v) for v in values):
        raise UserError(f"not a number: {value}", where=where, rule="finite numbers only")
    return tuple(float(v) for v in values)


def check(request: Request, preset: ModelPreset, weights_dir: Path | None = None) -> None:
    """Refuse what cannot work, before anything heavy is loaded.

    Raises:
        UserError: the first thing found wrong, with the rule and the fix.
    """
    _check_prompts(request)
    check_kv_dtype(request.kv_dtype)
    check_kv_device(request.kv_device)
    schedule = schedule_of(request, preset)
    planned_budget_of(request, preset, schedule)
    scales = len(schedule)
    per_scale(preset.sampling.cfg if request.cfg is None else request.cfg, scales, "--cfg")
    taus = per_scale(preset.sampling.tau if request.tau is None else request.tau, scales, "--tau")
    if min(taus) < LEAST_TAU:
        raise UserError(f"temperature {min(taus):g}", where="--tau", rule=f"at least {LEAST_TAU:g}")
    if request.top_p is not None and not 0 <= request.top_p <= 1:
        raise UserError(
            f"top-p {request.top_p:g}", where="--top-p", rule="between 0 and 1; 0 turns it off"
        )
    found = model_files(preset, weights_dir)
    _check_lengths(request, found.text_encoder / "tokenizer.json")


def _check_prompts(request: Request) -> None:
    if not request.prompts:
        raise UserError("no prompt", where="PROMPT", fix='scalekv generate "a red apple"')
    for number, prompt in enumerate(request.prompts, start=1):
        if not prompt.strip():
            raise UserError(
                "the prompt is empty",
                where=f"prompt {number} of {len(request.prompts)}",
                rule="a prompt has at least one word",
                fix='say what to draw: "a red apple"',
            )
    if request.num_images < 1:
        raise UserError(f"{request.num_images} pictures", where="--num-images", rule="at least 1")
    last = request.seed + len(request.prompts) * request.num_images - 1
    if request.seed < 0 or last > MOST_SEED:
        raise UserError(
            f"seed {request.seed}", where="--seed", rule=f"from 0 to {MOST_SEED}, for all pictures"
        )


def _check_lengths(request: Request, tokenizer_file: Path) -> None:
    from scalekv.infinity_patch.tokens import cut_prompt, read_tokenizer

    tokenizer = read_tokenizer(tokenizer_file)
    for number, prompt in enumerate(request.prompts, start=1):
        cut_prompt(tokenizer, prompt, f"prompt {number}", request.truncate)
    if request.negative is not None:
        cut_prompt(tokenizer, request.negative, "--negative", request.truncate)
