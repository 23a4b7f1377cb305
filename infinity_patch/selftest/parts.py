"""Whether VAE, transformer and text encoder do what they are for, and belong together.

A picture that is known goes through the VAE and back; its bits are forced on the transformer, to
which they are likely under the picture's caption if all three belong together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from scalekv.configs.models import ModelPreset
from scalekv.infinity_patch.asked.request import Request
from scalekv.infinity_patch.asked.settled import Settled, settle
from scalekv.infinity_patch.files.hub import BUILT_IN
from scalekv.infinity_patch.generation.forced import ForcedPicture, force_bits
from scalekv.infinity_patch.loading.loader import Pipeline
from scalekv.infinity_patch.model.quantiser import map_to_tokens, quantise_latents, vae_sizes
from scalekv.infinity_patch.model.scale_loop import to_uint8
from scalekv.infinity_patch.model.tokens import read_tokenizer
from scalekv.infinity_patch.planning.health import Finding, Level
from scalekv.infinity_patch.schedules import size_of
from scalekv.infinity_patch.selftest.known import (
    CAPTION,
    OTHER_CAPTIONS,
    PHRASES,
    T5_PHRASES,
    T5_VOCABULARY,
    decibels,
    known_picture,
)
from scalekv.kv.dtypes import DTYPE_NAMES

LEAST_DECIBELS = 17.0
"""Of a drawn apple through a tokenizer that works; a decoder of chance numbers gives 5 to 10."""
CHANCE = 0.97
"""Bits of surprise a bit, from which on the transformer knows nothing of a picture's bits."""


@dataclass(frozen=True)
class KnownPicture:
    """The known picture as a model has it: what came back of it, and its bits, (1, L, d) uint8."""

    picture: Image.Image
    returned: Image.Image
    psnr: float
    bits: tuple[Tensor, ...]


def plain_request(settled: Settled) -> Settled:
    """The same size without guidance, temperature and nucleus, and with the full cache: what the
    model itself says of bits."""
    request = replace(
        settled.request, policy="full", budget=None, cfg=1.0, tau=1.0, top_p=0.0, negative=None
    )
    return settle(request, settled.preset, settled.device, settled.dtype)


@torch.inference_mode()
def round_trip(pipeline: Pipeline, settled: Settled) -> KnownPicture:
    """The known picture to bits and back, at the size that is drawn."""
    preset, request = pipeline.preset, settled.request
    width, height = size_of(preset, request.ratio, request.pixels or preset.pixels)
    picture = known_picture(width, height)
    numbers = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float()
    sizes = vae_sizes(settled.schedule.scales, preset.tokenizer.patchify)
    latent = pipeline.vae.encode((numbers / 127.5 - 1).to(pipeline.device))
    quantised = quantise_latents(latent, sizes)
    pixels = to_uint8(pipeline.vae.decode(quantised.total).nan_to_num())[0].cpu().numpy()
    returned = Image.fromarray(pixels)
    bits = tuple(map_to_tokens(b, preset.tokenizer.patchify).cpu() for b in quantised.bits)
    return KnownPicture(picture, returned, decibels(returned, picture), bits)


def examine_round_trip(known: KnownPicture) -> Finding:
    """Whether the VAE gives back what it was given."""
    found = f"a drawn apple comes back with {known.psnr:.1f} dB"
    if known.psnr >= LEAST_DECIBELS:
        return Finding("VAE, round trip", Level.FINE, found)
    fix = "take the published VAE of this model again"
    return Finding(
        "VAE, round trip",
        Level.PROBLEM,
        f"{found}, and at least {LEAST_DECIBELS:g} are expected: its weights are wrong",
        fix,
    )


def examine_tokens(pipeline: Pipeline) -> Iterator[Finding]:
    """Whether the tokenizer has the vocabulary that the text encoder was trained with, as far as
    phrases are known in it."""
    name, preset = "text encoder, tokenizer", pipeline.preset
    expected = _phrases(preset)
    if expected is None:
        yield Finding(name, Level.NOTE, "no phrase is known in its vocabulary: not checked")
        return
    for phrase, wanted in expected.items():
        tokens = tuple(pipeline.text.counter.encode(phrase).ids)
        if tokens != wanted:
            yield Finding(
                name,
                Level.PROBLEM,
                f"is of another vocabulary: {phrase!r} is {_listed(tokens)} in it, and "
                f"{_listed(wanted)} in that of {preset.name}",
                f"put the tokenizer.json of {preset.files.text_encoder} beside the encoder",
            )
            return
    yield Finding(name, Level.FINE, f"{len(expected)} known phrases have their known tokens")


def _phrases(preset: ModelPreset) -> dict[str, tuple[int, ...]] | None:
    if preset.text is not None and preset.text.vocabulary == T5_VOCABULARY:
        return T5_PHRASES
    own = BUILT_IN / preset.name / "text_encoder" / "tokenizer.json"
    if not own.is_file():
        return None
    tokenizer = read_tokenizer(own)
    return {phrase: tuple(tokenizer.encode(phrase).ids) for phrase in PHRASES}


def _listed(tokens: Sequence[int]) -> str:
    return " ".join(map(str, tokens))


def examine_pair(
    pipeline: Pipeline, settled: Settled, known: KnownPicture, *, trained: bool
) -> tuple[dict[str, Any], list[Finding]]:
    """Whether the transformer knows the bits that the VAE makes, and its text.

    Args:
        trained: whether the transformer's matrices look like trained ones.

    Returns:
        Figures as JSON values, and what is to be said of them.
    """
    plain = plain_request(settled)

    def under(caption: str) -> ForcedPicture:
        return force_bits(pipeline, plain, caption, 0, known.bits)

    right = under(CAPTION)
    others = {caption: under(caption).surprise for caption in OTHER_CAPTIONS}
    facts = {
        "caption": CAPTION,
        "surprise": rounded(right.surprise),
        "surprise_by_scale": [rounded(scale.surprise) for scale in right.scales],
        "surprise_under_other_captions": {c: rounded(x) for c, x in others.items()},
    }
    usual = sum(others.values()) / len(others)
    name = "transformer and VAE"
    found = f"the apple's bits take {right.surprise:.3f} bits each under their caption"
    if not right.surprise < CHANCE:  # NaN too
        return facts, [_at_chance(name, found, known, trained)]
    findings = [Finding(name, Level.FINE, f"{found}, 1 by chance")]
    text = f"{right.surprise:.3f} bits a bit under {CAPTION!r}, {usual:.3f} under other captions"
    if right.surprise < usual:
        findings.append(Finding("transformer and text", Level.FINE, text))
    else:
        findings.append(
            Finding(
                "transformer and text",
                Level.PROBLEM,
                f"{text}: the text says nothing to the transformer",
                "take the text encoder that the transformer was trained with",
            )
        )
    return facts, findings


def _at_chance(name: str, found: str, known: KnownPicture, trained: bool) -> Finding:
    """Why the bits of a picture are no likelier than by chance."""
    said = f"{found}, and 1 is chance: likelihood at chance"
    if not trained:
        return Finding(
            name,
            Level.PROBLEM,
            f"{said}. The transformer's weights look like chance numbers, so that its pictures are "
            "noise",
            "weights that were trained",
        )
    if known.psnr < LEAST_DECIBELS:
        return Finding(
            name, Level.PROBLEM, f"{said}, as the VAE is wrong", "mend the VAE, and test again"
        )
    return Finding(
        name,
        Level.PROBLEM,
        f"{said}. The VAE gives back what it is given, so that it is another VAE than the one the "
        "transformer was trained with, or a part of the transformer is wrong",
        "the VAE and the transformer of one model; matrices that are named above first",
    )


def rounded(value: float) -> float | None:
    """Five digits; None for what JSON has no number for."""
    return float(f"{value:.5g}") if value == value and abs(value) != float("inf") else None


def request_of(prompts: Sequence[str], pixels: str | None, ratio: str, seed: int) -> Request:
    """The pictures of a test: one at a time, so that seeds and figures are each picture's own."""
    return Request(
        tuple(prompts), policy="full", pixels=pixels, ratio=ratio, seed=seed, reproducible=True
    )


def dtype_name(pipeline: Pipeline) -> str:
    """Of the blocks: "fp32", "bf16" or "fp16"."""
    return DTYPE_NAMES[pipeline.dtype]
