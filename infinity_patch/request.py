"""What a person asks for, and everything that can be refused before weights are read. No torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from scalekv.configs.models import ModelPreset
from scalekv.infinity_patch.budgeting import BudgetLike, budget_maker, in_bytes
from scalekv.infinity_patch.hub import model_files
from scalekv.infinity_patch.schedules import schedule_for
from scalekv.kv.budget import Budget, Drafters
from scalekv.kv.errors import UserError
from scalekv.kv.memory import CacheShape
from scalekv.kv.policy import Policy, check_policy_name
from scalekv.kv.schedule import Schedule

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PerScale = float | Sequence[float]
DEFAULT_POLICY = "scalekv"
DEFAULT_BUDGET = "10%"
MOST_SEED = 2**63 - 1
AUTO = "auto"
"""The batch size that free memory decides."""
ELEMENT_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
LEAST_TAU = 1e-3  # far below it, logits over temperature overflow


@dataclass(frozen=True)
class Request:
    """Pictures to generate.

    prompts: one or more; num_images: pictures of each. Picture i of all (prompts outermost) has
    the seed `seed` + i, or `seeds[i]` where seeds are given. policy and budget are "scalekv" and
    "10%" unless given, or those of the `with patched(...)` block the pictures are generated in.
    cfg, tau: one number, or one per scale; None takes the preset's. ratio is width:height.
    batch_size: the most pictures that go through the model together, or "auto", as many as free
    memory takes. reproducible: pictures run one at a time whatever batch_size says, so that a seed
    gives the same bits alone and among others; None: on a CPU they do, elsewhere not.
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
    batch_size: int | str = 1
    reproducible: bool | None = None
    drafters: Drafters | None = None
    seeds: tuple[int, ...] | None = None

    @property
    def pictures(self) -> int:
        """How many there are of all prompts."""
        return len(self.prompts) * self.num_images

    def seed_of(self, index: int) -> int:
        """The seed of picture `index`, from 0."""
        return self.seed + index if self.seeds is None else self.seeds[index]


def one_at_a_time(request: Request, device: str) -> bool:
    """Whether every picture is a batch of its own on a device of this type ("cpu", "cuda")."""
    return device == "cpu" if request.reproducible is None else request.reproducible


def fixed_batch(request: Request, device: str) -> int | None:
    """The most pictures at once on a device of this type; None: as many as free memory takes.

    A budget in bytes is for all pictures of a batch together, so that with no size given each
    picture has it to itself.
    """
    if one_at_a_time(request, device):
        return 1
    if request.batch_size == AUTO:
        return 1 if in_bytes(request.budget) else None
    assert isinstance(request.batch_size, int), request.batch_size
    return min(request.batch_size, request.pictures)


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


def budget_of(
    request: Request,
    preset: ModelPreset,
    schedule: Schedule,
    element_bytes: int,
    together: int = 1,
) -> Budget:
    """The budget the caches are held to (of a policy that takes one).

    Args:
        element_bytes: of one element of k and v, on which a budget in bytes depends.
        together: pictures that are generated at once, likewise.

    Raises:
        UserError: a budget that cannot be.
    """
    layers = preset.transformer.depth
    asked = DEFAULT_BUDGET if request.budget is None else request.budget
    made = budget_maker(asked, layers, preset.name, request.drafters)(schedule)
    if isinstance(made, Budget):
        return made
    return made(cache_shape(request, preset, schedule, element_bytes, together).bytes_of)


def cache_shape(
    request: Request,
    preset: ModelPreset,
    schedule: Schedule,
    element_bytes: int,
    together: int = 1,
) -> CacheShape:
    """The shape of the caches of `together` pictures."""
    spec = preset.transformer
    cfg = per_scale(_cfg(request, preset), len(schedule), "--cfg")
    return CacheShape(
        layers=spec.depth,
        sequences=together * (2 if any(strength != 1 for strength in cfg) else 1),
        heads=spec.heads,
        head_dim=spec.head_dim,
        k_bytes=element_bytes,
        v_bytes=element_bytes,
    )


def _cfg(request: Request, preset: ModelPreset) -> PerScale:
    return preset.sampling.cfg if request.cfg is None else request.cfg


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


def check(
    request: Request,
    preset: ModelPreset,
    weights_dir: Path | None = None,
    dtype: str = "auto",
) -> None:
    """Refuse what cannot work, before anything heavy is loaded.

    Args:
        dtype: as for `load`; what "auto" will come to is not known here, so only what fits no dtype
            is refused.

    Raises:
        UserError: the first thing found wrong, with the rule and the fix.
    """
    from scalekv.infinity_patch.tokens import read_tokenizer

    check_values(request, preset, dtype)
    found = model_files(preset, weights_dir)
    check_lengths(request, read_tokenizer(found.text_encoder / "tokenizer.json"))


def check_values(request: Request, preset: ModelPreset, dtype: str = "auto") -> None:
    """The part of `check` that reads no file of the model's.

    Raises:
        UserError: likewise.
    """
    _check_prompts(request)
    _check_seeds(request)
    check_settings(request, preset, dtype)


def check_settings(request: Request, preset: ModelPreset, dtype: str = "auto") -> None:
    """The part of `check` that all pictures of a request have in common: all but prompts and seeds.

    Raises:
        UserError: likewise.
    """
    if isinstance(request.policy, str):
        check_policy_name(request.policy)
    schedule = schedule_of(request, preset)
    scales = len(schedule)
    if request.batch_size != AUTO and not (
        isinstance(request.batch_size, int) and request.batch_size >= 1
    ):
        raise UserError(
            f"batch size {request.batch_size!r}",
            where="--batch-size",
            rule="a whole number of at least 1, or auto",
        )
    per_scale(_cfg(request, preset), scales, "--cfg")
    _check_budget(request, preset, schedule, dtype)
    taus = per_scale(preset.sampling.tau if request.tau is None else request.tau, scales, "--tau")
    if min(taus) < LEAST_TAU:
        raise UserError(f"temperature {min(taus):g}", where="--tau", rule=f"at least {LEAST_TAU:g}")
    if request.top_p is not None and not 0 <= request.top_p <= 1:
        raise UserError(
            f"top-p {request.top_p:g}", where="--top-p", rule="between 0 and 1; 0 turns it off"
        )


def _check_budget(request: Request, preset: ModelPreset, schedule: Schedule, dtype: str) -> None:
    sizes = [ELEMENT_BYTES[dtype]] if dtype in ELEMENT_BYTES else sorted(ELEMENT_BYTES.values())
    try:
        budget_of(request, preset, schedule, sizes[0])
    except UserError:
        # The least that this one names is enough whatever dtype and batch will be.
        budget_of(request, preset, schedule, sizes[-1], fixed_batch(request, "cuda") or 1)
        raise


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


def _check_seeds(request: Request) -> None:
    if request.seeds is not None and len(request.seeds) != request.pictures:
        raise UserError(
            f"{len(request.seeds)} seeds for {request.pictures} pictures",
            where="seeds",
            rule="one for every picture, or none and `seed` for the first",
        )
    seeds = request.seeds or (request.seed, request.seed_of(request.pictures - 1))
    for seed in seeds:
        if not 0 <= seed <= MOST_SEED:
            raise UserError(
                f"seed {seed}", where="--seed", rule=f"from 0 to {MOST_SEED}, for all pictures"
            )


def check_lengths(request: Request, tokenizer: Tokenizer) -> None:
    """Refuse prompts that are too long and may not be cut.

    Raises:
        UserError: the first of them.
    """
    from scalekv.infinity_patch.tokens import cut_prompt

    for number, prompt in enumerate(request.prompts, start=1):
        cut_prompt(tokenizer, prompt, f"prompt {number}", request.truncate)
    if request.negative is not None:
        cut_prompt(tokenizer, request.negative, "--negative", request.truncate)
