"""Teacher forcing: a picture's bits fed back, and what the model would have drawn at each scale.

Policies are compared so without the chaos of free runs, where one bit that differs changes all that
come after it. Knows settled requests and bits; nothing of files or pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from scalekv.infinity_patch.asked.settled import Settled
from scalekv.infinity_patch.generation.patch import caches_of
from scalekv.infinity_patch.generation.pipeline import own_turn
from scalekv.infinity_patch.generation.scales import caches_for, guidance_of, rows_for
from scalekv.infinity_patch.loading.loader import Pipeline
from scalekv.infinity_patch.model.sampling import BitSampler
from scalekv.infinity_patch.model.scale_loop import computing, generate_codes
from scalekv.kv.errors import UserError


@dataclass(frozen=True)
class ForcedScale:
    """One scale under forced bits.

    Attributes:
        bits: how many there are.
        agreement: share of them that would have been drawn alike from the picture's own noise.
        surprise: -log2 of the probability of a forced bit, in the mean: 1 is chance, 0 certainty.
            After guidance and temperature, before the nucleus is cut.
    """

    bits: int
    agreement: float
    surprise: float


@dataclass(frozen=True)
class ForcedPicture:
    """A picture whose bits were drawn or forced.

    Attributes:
        bits: of every scale, (1, L, d) uint8 on the CPU.
        total: (1, b, H, W) float32, the summed codes.
        scales: what the model says of each scale.
        cache: the ledger of its caches.
    """

    bits: tuple[Tensor, ...]
    total: Tensor
    scales: tuple[ForcedScale, ...]
    cache: dict[str, Any]

    @property
    def agreement(self) -> float:
        """Of all bits."""
        return _mean(self.scales, [scale.agreement for scale in self.scales])

    @property
    def surprise(self) -> float:
        """Of all bits, in the mean."""
        return _mean(self.scales, [scale.surprise for scale in self.scales])


def _mean(scales: Sequence[ForcedScale], values: Sequence[float]) -> float:
    bits = [scale.bits for scale in scales]
    return sum(n * x for n, x in zip(bits, values, strict=True)) / sum(bits)


def force_bits(
    pipeline: Pipeline,
    settled: Settled,
    prompt: str,
    seed: int,
    bits: Sequence[Tensor] | None = None,
    on_logits: Callable[[int, Tensor], None] | None = None,
    *,
    unpatched: bool = False,
) -> ForcedPicture:
    """One picture, drawn with bits that are given instead of the model's own.

    Args:
        settled: what else to draw with; of its prompts and seeds nothing is used, its budget is for
            one picture.
        bits: of every scale, (1, L, d) uint8; None: those that the picture has by itself, which
            agree with themselves.
        on_logits: given every scale and its logits (1, L, d, 2), after guidance and temperature.
        unpatched: with the model's own attention, which keeps everything, and no ledger.

    Raises:
        UserError: bits of another size or schedule.
    """
    schedule, token_bits = settled.schedule, pipeline.preset.tokenizer.token_bits
    shapes = [(1, tokens, token_bits) for tokens in schedule.tokens]
    if bits is not None and [tuple(part.shape) for part in bits] != shapes:
        raise UserError(
            "bits of another schedule",
            where="force_bits(bits)",
            rule=f"{len(shapes)} scales, the last of shape {shapes[-1]}",
        )
    sampler = BitSampler([seed], settled.top_p)
    used: list[Tensor] = []
    found: list[Tensor] = []

    def choose(scale: int, logits: Tensor) -> Tensor:
        if on_logits is not None:
            on_logits(scale, logits)
        drawn = sampler(scale, logits)
        chosen = drawn if bits is None else bits[scale].to(drawn.device)
        likely = logits.float().log_softmax(-1).gather(-1, chosen.long().unsqueeze(-1))
        found.append(torch.stack([(chosen == drawn).float().mean(), -likely.mean()]))
        used.append(chosen)
        return chosen

    outer = caches_of(pipeline.model)
    request = settled.request
    with own_turn(pipeline, outer), torch.inference_mode():
        text = pipeline.text.encode([request.text_of(prompt)])[0]
        negative = None
        if request.negative is not None:
            negative = pipeline.text.encode([request.negative])[0]
        pipeline.text.rest()
        rows = rows_for(pipeline, settled, [text], negative)
        inside = nullcontext() if unpatched else caches_for(pipeline.model, settled)
        with pipeline.stages.stage("scales"), inside as caches:
            with computing(pipeline.model):
                condition = pipeline.model.condition_rows(rows)
            total = generate_codes(
                pipeline.model,
                condition,
                schedule,
                pipeline.preset.tokenizer.patchify,
                guidance_of(settled),
                choose,
                picture=settled.picture,
            )
            ledger = {} if caches is None or caches.ledger is None else caches.ledger.to_dict()
    told = torch.stack(found).double().cpu()
    told[:, 1] /= torch.tensor(2.0).log()
    scales = tuple(
        ForcedScale(part.numel(), float(row[0]), float(row[1]))
        for part, row in zip(used, told, strict=True)
    )
    return ForcedPicture(tuple(part.cpu() for part in used), total, scales, ledger)


def forced_on_all(
    pipeline: Pipeline, full: Settled, others: Sequence[Settled], prompt: str, seed: int
) -> list[ForcedPicture]:
    """The bits that one request draws of a prompt, forced on others of the same size.

    Args:
        full: whose bits they are; the full cache's, where policies are told apart.
        others: each with what else it is drawn with.

    Returns:
        The first one's own, and then each of the others'.
    """
    own = force_bits(pipeline, full, prompt, seed)
    return [own, *(force_bits(pipeline, one, prompt, seed, own.bits) for one in others)]


def scale_means(pictures: Sequence[ForcedPicture]) -> dict[str, Any]:
    """Agreement and surprise in the mean over pictures of one schedule, as JSON values: of all bits
    and of each scale's."""
    by_scale = list(zip(*(picture.scales for picture in pictures), strict=True))
    return {
        "agreement": round(fmean(picture.agreement for picture in pictures), 6),
        "surprise": round(fmean(picture.surprise for picture in pictures), 6),
        "agreement_by_scale": [round(fmean(s.agreement for s in row), 6) for row in by_scale],
        "surprise_by_scale": [round(fmean(s.surprise for s in row), 6) for row in by_scale],
    }
