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
from scalekv.infinity_patch.policies import calibration_of
from scalekv.infinity_patch.positive import with_suffix
from scalekv.infinity_patch.schedules import schedule_for
from scalekv.kv.budget import FULL, Budget, Drafters
from scalekv.kv.errors import UserError
from scalekv.kv.memory import CacheShape, stored_bytes_of
from scalekv.kv.policy import Policy, plan_named, planned, policy_and_file, takes_budget
from scalekv.kv.precision import check_kv_device, check_kv_dtype, precision_of
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
    "10%" unless given, or those of the `with patched(...)` block the pictures are generated in;
    kv_dtype and kv_device are as there.
    cfg, tau: one number, or one per scale; None takes the preset's. cfg_layer: where guidance
    mixes, 0 for the logits, or one or several -n for the hidden states after block depth - n.
    ratio is width:height. positive_prompt: add words for faces to prompts that mention people.
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
    cfg_layer: int | Sequence[int] | None = None
    positive_prompt: bool = False
    drafters: Drafters | None = None
    kv_dtype: str = "auto"
    kv_device: str = "auto"
    seeds: tuple[int, ...] | None = None

    @property
    def pictures(self) -> int:
        """How many there are of all prompts."""
        return len(self.prompts) * self.num_images

    def seed_of(self, index: int) -> int:
        """The seed of picture `index`, from 0."""
        return self.seed + index if self.seeds is None else self.seeds[index]

    def text_of(self, prompt: str) -> str:
        """What is encoded for a prompt."""
        return with_suffix(prompt) if self.positive_prompt else prompt


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
    return request.batch_size


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
    shape = cache_shape(request, preset, schedule, element_bytes, together)
    precision = precision_of(request.kv_dtype, {4: "fp32", 2: "bf16"}[element_bytes])
    return made(stored_bytes_of(shape, precision, schedule))


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


def planned_for(request: Request, preset: ModelPreset, asked: Budget) -> Budget | None:
    """The budget as the policy plans it; None where the policy takes none. Loads no policy that is
    given by name.

    Raises:
        UserError: unknown policy, no calibration for it, or a budget it cannot work with.
    """
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


def guidance_layers(value: int | Sequence[int], depth: int) -> tuple[int, ...]:
    """The layers guidance mixes at, as `Guidance` takes them.

    Raises:
        UserError: positive ones, beyond the first block, or logits and hidden states together.
    """
    layers = (value,) if isinstance(value, int) else tuple(value)
    if not layers or not all(-depth <= layer <= 0 for layer in layers):
        raise UserError(
            "guidance layer " + ",".join(map(str, layers)),
            where="--cfg-layer",
            rule=f"0 for the logits, or from -1 (after the last block) to -{depth} (the first)",
            fix="--cfg-layer 0",
        )
    if 0 in layers and len(set(layers)) > 1:
        raise UserError(
            "guidance in the logits and in hidden states at once",
            where="--cfg-layer",
            rule="0 alone, or negative numbers alone",
            fix="--cfg-layer 0",
        )
    return tuple(dict.fromkeys(layers))


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
    check_values(request, preset, dtype)
    check_lengths(request, tokenizer_of(preset, weights_dir))


def tokenizer_of(preset: ModelPreset, weights_dir: Path | None = None) -> Tokenizer:
    """What counts a prompt's tokens, found with the model's other files.

    Raises:
        UserError: files are missing or damaged.
    """
    from scalekv.infinity_patch.tokens import read_tokenizer

    return read_tokenizer(model_files(preset, weights_dir).text_encoder / "tokenizer.json")


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
    check_kv_dtype(request.kv_dtype)
    check_kv_device(request.kv_device)
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
    if request.cfg_layer is not None:
        guidance_layers(request.cfg_layer, preset.transformer.depth)
    if request.top_p is not None and not 0 <= request.top_p <= 1:
        raise UserError(
            f"top-p {request.top_p:g}", where="--top-p", rule="between 0 and 1; 0 turns it off"
        )


def idle_budget(request: Request, preset: ModelPreset, dtype: str = "auto") -> Budget | None:
    """The budget, where it is certain to drop nothing from pictures of this size although it was
    not asked to hold everything; else None.

    Args:
        dtype: as for `check`.
    """
    if request.policy == FULL or request.budget == FULL:
        return None
    schedule = schedule_of(request, preset)
    element = ELEMENT_BYTES.get(dtype, max(ELEMENT_BYTES.values()))
    budget = budget_of(request, preset, schedule, element, fixed_batch(request, "cuda") or 1)
    return None if budget.evicts else budget


def _check_budget(request: Request, preset: ModelPreset, schedule: Schedule, dtype: str) -> None:
    sizes = [ELEMENT_BYTES[dtype]] if dtype in ELEMENT_BYTES else sorted(ELEMENT_BYTES.values())
    try:
        asked = budget_of(request, preset, schedule, sizes[0])
    except UserError:
        # The least that this one names is enough whatever dtype and batch will be.
        budget_of(request, preset, schedule, sizes[-1], fixed_batch(request, "cuda") or 1)
        raise
    planned_for(request, preset, asked)


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
        cut_prompt(tokenizer, request.text_of(prompt), f"prompt {number}", request.truncate)
    if request.negative is not None:
        cut_prompt(tokenizer, request.negative, "--negative", request.truncate)
