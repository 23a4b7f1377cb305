"""The loop over scales: from text features to the summed codes of pictures.

Knows the transformer and the quantiser; nothing of files, prompts, policies or pictures' pixels.
How the bits of a scale are chosen is handed in, so that recorded bits can be fed back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from scalekv.infinity_patch.compute import memory as heap
from scalekv.infinity_patch.compute.exact import exact_float32
from scalekv.infinity_patch.model.quantiser import (
    codes,
    map_to_tokens,
    resize,
    tokens_to_map,
    vae_sizes,
)
from scalekv.infinity_patch.model.rotary import rotary_tables
from scalekv.infinity_patch.model.text_rows import TextRows
from scalekv.infinity_patch.model.transformer import Condition, Infinity, mix_halves
from scalekv.infinity_patch.schedules import grid_of
from scalekv.kv.autocast import without_autocast
from scalekv.kv.schedule import Schedule

Chooser = Callable[[int, Tensor], Tensor]
"""(scale, logits (B, L, d, 2) after guidance and temperature) to bits (B, L, d) uint8."""


@dataclass(frozen=True)
class Guidance:
    """How the conditional and unconditional halves are mixed, and how sharply bits are drawn.

    cfg, tau: one value per scale. layers: (0,) mixes the logits; each -n mixes the hidden states
    after the block with 0-based index depth - n, and both halves go on with the mixture.
    """

    cfg: tuple[float, ...]
    tau: tuple[float, ...]
    layers: tuple[int, ...] = (0,)

    @property
    def needed(self) -> bool:
        """Whether there is an unconditional half at all."""
        return self.guided > 0

    @property
    def guided(self) -> int:
        """Scales until, from one on, every cfg is 1: from there on nothing asks for the
        unconditional half."""
        return max((k + 1 for k, value in enumerate(self.cfg) if value != 1), default=0)


class ScaleLoop:
    """The scales of a batch of pictures, one after another. To be used inside `computing(model)`.

    Attributes:
        codes: what has been drawn so far, summed up at the size of the picture's last scale,
            (B, b, H, W) float32; None before the first scale.
    """

    def __init__(
        self,
        model: Infinity,
        condition: Condition,
        schedule: Schedule,
        patchify: bool,
        guidance: Guidance,
        choose: Chooser,
        picture: Schedule | None = None,
    ) -> None:
        """`condition` holds 2 B sequences, conditional first, or B where no guidance is needed.
        `schedule` are the scales to draw, the first of all scales of the `picture`; None: all."""
        assert len(guidance.cfg) == len(guidance.tau) == len(schedule), "one value per scale"
        self.codes: Tensor | None = None
        self._model, self._condition, self._schedule = model, condition, schedule
        self._patchify, self._guidance, self._choose = patchify, guidance, choose
        self._halves = 2 if guidance.needed else 1
        picture = picture or schedule
        self._scales = [(1, h, w) for h, w in schedule.scales]
        self._tables = rotary_tables(
            schedule.scales, grid_of(picture), model.spec.head_dim, condition.start.device
        )
        self._sizes = vae_sizes(picture.scales, patchify)
        self._x = model.embed_start(condition)

    def step(self, k: int) -> None:
        """Scale k: its bits, and what the next one begins with.

        From the scale on from which cfg stays 1 the unconditional half is left out, and what was
        cached of it is freed.
        """
        model, guidance, x = self._model, self._guidance, self._x
        if self._halves == 2 and k == guidance.guided:
            self._halves, x = 1, x.chunk(2)[0].contiguous()
            self._condition = self._condition.first(len(x))
            for block in model.blocks:
                block.sa.keep_sequences(len(x))
        condition, mix = self._condition, None
        if min(guidance.layers) < 0 and self._halves == 2:
            mix = {model.spec.depth + layer: guidance.cfg[k] for layer in guidance.layers}
        x = model.forward_scale(x, k, condition, self._scales, self._tables, mix)
        logits = model.logits(x, condition).mul(1 / guidance.tau[k])
        if self._halves == 2:
            logits = logits.chunk(2)[0] if mix else mix_halves(logits, guidance.cfg[k])
        bits = self._choose(k, logits)
        if x.device.type == "cpu" and x.nbytes >= heap.WORTHWHILE:
            heap.give_back()
        code = codes(tokens_to_map(bits.unflatten(1, self._schedule.scales[k]), self._patchify))
        grown = resize(code, self._sizes[-1])
        self.codes = grown if self.codes is None else self.codes + grown
        if k + 1 < len(self._schedule):
            tokens = map_to_tokens(resize(self.codes, self._sizes[k + 1]), self._patchify)
            self._x = model.embed_tokens(tokens).repeat(self._halves, 1, 1)


def generate_codes(
    model: Infinity,
    condition: Condition,
    schedule: Schedule,
    patchify: bool,
    guidance: Guidance,
    choose: Chooser,
    after_scale: Callable[[int], None] | None = None,
    picture: Schedule | None = None,
) -> Tensor:
    """Summed codes (B, b, H, W) float32 of B pictures, as `ScaleLoop` makes them.

    `after_scale(k)` is called when scale k is done.
    """
    with computing(model):
        loop = ScaleLoop(model, condition, schedule, patchify, guidance, choose, picture)
        for k in range(len(schedule)):
            loop.step(k)
            if after_scale is not None:
                after_scale(k)
    assert loop.codes is not None
    return loop.codes


@contextmanager
def computing(model: Infinity) -> Iterator[None]:
    """A block in which scales are computed: float32 is exact, the model names its dtypes itself,
    whatever autocast the caller is in, and keeps keys and values for one batch of pictures."""
    with exact_float32(), without_autocast(model.pos_start), _caching(model):
        yield


@contextmanager
def _caching(model: Infinity) -> Iterator[None]:
    """The model keeps keys and values for the time of one batch of pictures."""
    for block in model.blocks:
        block.sa.kv_caching(True)
    try:
        yield
    finally:
        for block in model.blocks:
            if block.sa.cached_k is not None:  # a patched model's caches stay to be looked at
                block.sa.kv_caching(False)


@exact_float32()
def text_rows(
    model: Infinity,
    texts: Sequence[Tensor],
    negative: Tensor | None,
    guidance: Guidance,
    length: int | None = None,
) -> TextRows:
    """Rows of pictures with encoder features `texts`, (len, Ct) each on any device, padded to
    `length`, or as far as needed.

    The unconditional half is the learned rows of the same length, or `negative` for all.
    """
    sequences = list(texts)
    if guidance.needed:
        sequences += [model.unconditional(len(t)) if negative is None else negative for t in texts]
    with without_autocast(model.pos_start):
        place = model.pos_start.device
        return model.text_rows([s.to(place, torch.float32) for s in sequences], length)


@exact_float32()
def conditions(
    model: Infinity,
    texts: Sequence[Tensor],
    negative: Tensor | None,
    guidance: Guidance,
    length: int | None = None,
) -> Condition:
    """The condition of pictures, from their `text_rows`."""
    rows = text_rows(model, texts, negative, guidance, length)
    with without_autocast(model.pos_start):
        return model.condition_rows(rows)


def to_uint8(images: Tensor) -> Tensor:
    """Pictures (B, 3, H, W) in [-1, 1] to (B, H, W, 3) uint8, truncated as published."""
    return images.float().add(1).div(2).mul(255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
