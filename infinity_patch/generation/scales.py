"""The scales of one batch of pictures, computed, or replayed as they were recorded.

Knows the model, its caches and their recordings; nothing of prompts, files or pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from scalekv.infinity_patch.asked.request import Request
from scalekv.infinity_patch.asked.settled import Settled
from scalekv.infinity_patch.compute.graphs import Tape
from scalekv.infinity_patch.generation.patch import caches_of, patched_as_settled
from scalekv.infinity_patch.loading.loader import Pipeline
from scalekv.infinity_patch.model.sampling import BitSampler, all_finite, bits_drawn
from scalekv.infinity_patch.model.scale_loop import (
    Guidance,
    ScaleLoop,
    computing,
    generate_codes,
    text_rows,
)
from scalekv.infinity_patch.model.text_rows import TextRows
from scalekv.infinity_patch.model.transformer import Infinity
from scalekv.infinity_patch.pieces import padded_text
from scalekv.kv.caches.caches import Caches

OnCaches = Callable[[Caches], None]
"""Given the caches of a batch before its first scale."""
OnBits = Callable[[int, Tensor], None]
"""Given each scale and the bits that a batch drew at it, (B, L, d) uint8 where they were drawn."""
Report = Callable[[int, int], None]
"""Told the scale that is done, and the bytes of keys and values held then."""


@dataclass(frozen=True)
class DrawnScales:
    """What the scales of a batch came to.

    codes: summed, (B, b, H, W) float32; ledger: of the caches; finite: (B,) bool, whether each
    picture was drawn from finite logits.
    """

    codes: Tensor
    ledger: dict[str, Any]
    finite: Tensor


@dataclass(frozen=True)
class Shape:
    """What batches have in common that the same recording serves.

    asked: the request without prompts and seeds; pictures: of the batch; rows: of text; weights:
    where the weights lie, how often they were written to, and what is called beside the modules.
    """

    asked: Request
    pictures: int
    rows: int
    weights: tuple[int, ...]


def scales_of(
    pipeline: Pipeline,
    settled: Settled,
    seeds: Sequence[int],
    texts: Sequence[Tensor],
    negative: Tensor | None,
    report: Report,
    on_caches: OnCaches | None = None,
    on_bits: OnBits | None = None,
) -> DrawnScales:
    """Draws a batch of pictures.

    Args:
        seeds: one a picture.
        texts: encoder features (len, Ct), one a picture.
        negative: of what is to be kept away from; None: the learned rows.
        on_caches: given the caches before the first scale.
        on_bits: given each scale's bits. Where either is to be given something nothing is replayed.
    """
    model, graphs, tokenizer = pipeline.model, pipeline.graphs, pipeline.preset.tokenizer
    patchify = tokenizer.patchify
    sampler = BitSampler(seeds, settled.top_p)
    with torch.inference_mode():
        rows = rows_for(pipeline, settled, texts, negative)
        noise: list[Tensor] = []
        if graphs.possible:  # a device, which is not to wait for it
            noise = sampler.draw_ahead(settled.schedule, tokenizer.token_bits, pipeline.device)
        if not graphs.used or on_caches is not None or on_bits is not None:
            with pipeline.stages.stage("scales"):
                watching = (on_caches, on_bits)
                return computed(model, patchify, settled, rows, sampler, report, *watching)
        shape = _shape(model, settled.request, len(seeds), rows)
        recording: Recording | None = graphs.found(shape)
        with pipeline.stages.stage("scales"):
            if recording is not None:
                return recording.replayed(rows, noise, report)
            drawn = computed(model, patchify, settled, rows, sampler, report)
        reason = _not_recorded(pipeline, settled)
        if reason is not None:
            graphs.refuse(shape, reason)
        elif graphs.worth(shape):
            with pipeline.stages.stage("record"):
                _record(pipeline, settled, shape, rows, noise, drawn)
        return drawn


def rows_for(
    pipeline: Pipeline, settled: Settled, texts: Sequence[Tensor], negative: Tensor | None
) -> TextRows:
    """The rows of text that pictures are drawn with."""
    length = None
    if pipeline.graphs.possible:  # whether one is used or not: pictures are the same both ways
        sequences = texts if negative is None else (*texts, negative)
        length = padded_text(max(map(len, sequences)), pipeline.model.spec.text_max)
    return text_rows(pipeline.model, texts, negative, guidance_of(settled), length)


def guidance_of(settled: Settled) -> Guidance:
    """How the halves of its pictures are mixed, and how sharply bits are drawn."""
    return Guidance(settled.cfg, settled.tau, settled.cfg_layers)


def computed(
    model: Infinity,
    patchify: bool,
    settled: Settled,
    rows: TextRows,
    sampler: BitSampler,
    report: Report,
    on_caches: OnCaches | None = None,
    on_bits: OnBits | None = None,
) -> DrawnScales:
    """The scales of a batch of pictures with these rows of text, launch by launch."""

    def choose(scale: int, logits: Tensor) -> Tensor:
        bits = sampler(scale, logits)
        if on_bits is not None:
            on_bits(scale, bits)
        return bits

    with caches_for(model, settled) as caches:
        if on_caches is not None:
            on_caches(caches)
        with computing(model):
            condition = model.condition_rows(rows)
        codes = generate_codes(
            model,
            condition,
            settled.schedule,
            patchify,
            guidance_of(settled),
            choose,
            after_scale=lambda scale: report(scale, caches.nbytes),
            picture=settled.picture,
        )
        assert caches.ledger is not None
        assert sampler.finite is not None
        return DrawnScales(codes, caches.ledger.to_dict(), sampler.finite)


def caches_for(model: Infinity, settled: Settled) -> AbstractContextManager[Caches]:
    """The caches to generate with: those the caller has patched in, or the request's own."""
    outer = caches_of(model)
    return patched_as_settled(model, settled) if outer is None else nullcontext(outer)


class Recording:
    """The scales of one shape of batch, a piece each, reading and writing where it did when it was
    recorded. What they keep from picture to picture is made before, when one is `computed`."""

    def __init__(
        self,
        model: Infinity,
        patchify: bool,
        settled: Settled,
        rows: TextRows,
        noise: list[Tensor],
        tape: Tape,
    ) -> None:
        """
        Args:
            rows: of text, padded to a length.
            noise: each scale's, (B, L, bits, 2).
        """
        assert rows.mask is not None, "rows are padded to a length"
        self._tape = tape
        self._rows = TextRows(rows.rows.clone(), rows.mask.clone())
        self._noise = [part.to(rows.rows.device, copy=True) for part in noise]
        self._held: list[int] = []
        self._finite: Tensor | None = None
        self._top_p = settled.top_p

        def first() -> ScaleLoop:
            loop = ScaleLoop(
                model,
                model.condition_rows(self._rows),
                settled.schedule,
                patchify,
                guidance_of(settled),
                self._choose,
                settled.picture,
            )
            loop.step(0)
            return loop

        with computing(model), patched_as_settled(model, settled) as caches:
            loop = tape.record(first)
            self._held.append(caches.nbytes)
            for scale in range(1, len(settled.schedule)):
                tape.record(partial(loop.step, scale))
                self._held.append(caches.nbytes)
            assert caches.ledger is not None
            self._ledger = caches.ledger.to_dict()
        assert loop.codes is not None
        self._codes = loop.codes

    def replayed(self, rows: TextRows, noise: list[Tensor], report: Report) -> DrawnScales:
        """The scales with other text and other noise, of the same sizes."""
        assert rows.mask is not None
        assert self._rows.mask is not None
        assert self._finite is not None
        self._rows.rows.copy_(rows.rows)
        self._rows.mask.copy_(rows.mask)
        for place, part in zip(self._noise, noise, strict=True):
            place.copy_(part, non_blocking=True)
        for scale, held in enumerate(self._held):
            self._tape.replay(scale)
            report(scale, held)
        return DrawnScales(self._codes.clone(), deepcopy(self._ledger), self._finite.clone())

    def _choose(self, scale: int, logits: Tensor) -> Tensor:
        finite = all_finite(logits)
        self._finite = finite if self._finite is None else self._finite & finite
        return bits_drawn(logits, self._top_p, self._noise[scale])


def _record(
    pipeline: Pipeline,
    settled: Settled,
    shape: Shape,
    rows: TextRows,
    noise: list[Tensor],
    drawn: DrawnScales,
) -> None:
    """Records a batch that has just been drawn, and keeps the recording if it draws the same."""
    graphs, patchify = pipeline.graphs, pipeline.preset.tokenizer.patchify
    try:
        recording: Recording = graphs.record(
            shape, lambda tape: Recording(pipeline.model, patchify, settled, rows, noise, tape)
        )
        again = recording.replayed(rows, noise, lambda scale, held: None)
        same = torch.equal(again.codes, drawn.codes) and again.ledger == drawn.ledger
    except Exception as error:
        # whatever it is, pictures can be drawn without a recording, as this one was
        graphs.refuse(shape, f"{type(error).__name__}: {str(error).splitlines()[0][:200]}")
        return
    if not same:
        graphs.refuse(shape, "what was replayed was not what had been computed")


def _shape(model: nn.Module, asked: Request, pictures: int, rows: TextRows) -> Shape:
    without = replace(asked.in_common, batch_size=1)
    return Shape(without, pictures, rows.rows.shape[1], _state_of(model))


def _state_of(model: nn.Module) -> tuple[int, ...]:
    """What a recording of a model has to be given up for when it changes."""
    state = []
    for module in model.modules():
        state += [id(module), len(module._forward_hooks), len(module._forward_pre_hooks)]
        for parameter in module._parameters.values():
            if parameter is not None:
                written = -1 if parameter.is_inference() else parameter._version
                state += [parameter.data_ptr(), written]
    return tuple(state)


def _not_recorded(pipeline: Pipeline, settled: Settled) -> str | None:
    """Why a batch is computed each time; None: nothing speaks against a recording."""
    if caches_of(pipeline.model) is not None:
        return "the caches of a `with patched(...)` block are its own"
    if pipeline.model.stream is not None:
        return "--offload sends blocks over one after another"
    if settled.request.kv_device == "cpu":
        return "--kv-device cpu brings held tokens over"
    if not isinstance(settled.policy, str):
        return "a policy that is not one of the program's may do anything"
    return None
