"""What can be refused of a request before weights are read: values, prompts, lengths. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from scalekv.configs.models import ModelPreset
from scalekv.infinity_patch.asked.request import (
    AUTO,
    LEAST_TAU,
    MOST_SEED,
    Request,
    guidance_layers,
    per_scale,
)
from scalekv.infinity_patch.asked.settled import _cfg, _check_budget, schedule_of, tokenizer_of
from scalekv.kv.errors import UserError
from scalekv.kv.precision import check_kv_device, check_kv_dtype

if TYPE_CHECKING:
    from tokenizers import Tokenizer


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
    from scalekv.infinity_patch.model.tokens import cut_prompt

    for number, prompt in enumerate(request.prompts, start=1):
        cut_prompt(tokenizer, request.text_of(prompt), f"prompt {number}", request.truncate)
    if request.negative is not None:
        cut_prompt(tokenizer, request.negative, "--negative", request.truncate)
