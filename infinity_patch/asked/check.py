"""What can be refused of a request before weights are read: values, prompts, lengths. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from scalekv.configs.models import ModelPreset
from scalekv.infinity_patch.asked.request import MOST_SEED, Request
from scalekv.infinity_patch.asked.settled import Settled, settle
from scalekv.infinity_patch.files.hub import model_files
from scalekv.kv.errors import UserError

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def check(
    request: Request,
    preset: ModelPreset,
    weights_dir: Path | None = None,
    dtype: str = "auto",
    device: str = "auto",
) -> Settled:
    """Refuse what cannot work, before anything heavy is loaded.

    Args:
        dtype, device: as for `load`; what "auto" comes to is told without torch, see `settle`.

    Returns:
        What the request comes to, which `generate` takes in its place.

    Raises:
        UserError: the first thing found wrong, with the rule and the fix.
    """
    check_pictures(request)
    settled = settle(request, preset, device, dtype)
    check_lengths(request, tokenizer_of(preset, weights_dir))
    return settled


def check_pictures(request: Request) -> None:
    """Refuse prompts, seeds and numbers of pictures that cannot be.

    Raises:
        UserError: the first thing found wrong.
    """
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
    _check_seeds(request)


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


def tokenizer_of(preset: ModelPreset, weights_dir: Path | None = None) -> Tokenizer:
    """What counts a prompt's tokens, found with the model's other files.

    Raises:
        UserError: files are missing or damaged.
    """
    from scalekv.infinity_patch.model.tokens import read_tokenizer

    return read_tokenizer(model_files(preset, weights_dir).text_encoder / "tokenizer.json")
