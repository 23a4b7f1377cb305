"""The transformer and its text encoder, trained on ten scales with some pictures of seven.

First the scales that the weights do not know yet, alone, on true coarse ones; then all, with some
bits flipped as in the published training (bitwise self-correction, arXiv 2412.04431). Knows latents
and captions; nothing of pixels.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from scalekv.configs.models import ModelPreset
from scalekv.infinity_patch.files.hub import BUILT_IN
from scalekv.infinity_patch.model.autoencoder import Autoencoder
from scalekv.infinity_patch.model.quantiser import map_to_tokens, quantise_latents
from scalekv.infinity_patch.model.text_rows import TextRows
from scalekv.infinity_patch.model.transformer import Infinity
from scalekv.infinity_patch.schedules import schedule_for
from scripts.builtin.captions import caption, prompt
from scripts.builtin.gpu.clock import Every, Stop, TimeLimit, rate_at
from scripts.builtin.gpu.files import TEXT, save_tensors, save_transformer
from scripts.builtin.gpu.pictures import Pictures
from scripts.builtin.gpu.start import Weights
from scripts.builtin.gpu.tokenizer import CLASSES, as_input, sizes_of
from scripts.builtin.teacher import Teacher
from scripts.builtin.train_transformer import (
    COMPOSED,
    FLIPS,
    LOOSE,
    TEXT_DROPPED,
    TEXT_TOKENS,
    text_encoder,
)
from scripts.builtin.training import (
    Averaged,
    bit_losses,
    load_checkpoint,
    optimizers_for,
    save_checkpoint,
)
from scripts.builtin.wordings import Wordings

DECAY = 0.998
NEW_ALONE = 0.1  # share of the time for the new scales alone, where there are any
HELD = 64  # held-out drawings the loss is measured on


@dataclass(frozen=True)
class Batch:
    """What a step is made of: pixel class, scales, pictures per picture of a whole step."""

    pixels: str
    scales: int
    times: int


WHOLE = Batch("0.25M", 10, 1)
KINDS = {WHOLE: 0.6, Batch("0.25M", 7, 4): 0.15, Batch("0.06M", 7, 4): 0.25}
"""With their shares. All have about as many tokens; a picture of seven scales has a fifth."""


@torch.no_grad()
def encoded(
    model: Autoencoder, images: np.ndarray, pixels: str, device: torch.device, batch: int
) -> Tensor:
    """Latents (N, b, h, w) float32 of all pictures at a pixel class, on the device."""
    found = []
    for begin in range(0, len(images), batch):
        x = as_input(torch.from_numpy(images[begin : begin + batch]).to(device), pixels)
        with torch.autocast(device.type, torch.bfloat16):
            found.append(model.encode(x).float())
    return torch.cat(found)


class Batches:
    """Inputs, targets and tokens of a step."""

    def __init__(self, pictures: Pictures, latents: dict[str, Tensor], device: torch.device):
        self.pictures, self.latents, self.device = pictures, latents, device
        folder = BUILT_IN / "emoji" / "text_encoder"
        self.words = PreTrainedTokenizerFast.from_pretrained(folder)
        self.wordings = Wordings(pictures.rows)

    def chosen(self, count: int, rng: np.random.Generator) -> tuple[np.ndarray, list[str]]:
        """Numbers of pictures, compositions among them, and a caption each."""
        composed = round(COMPOSED * count) if self.pictures.captions else 0
        numbers = rng.integers(0, max(len(self.pictures.captions), 1), composed)
        drawn = rng.integers(0, len(self.pictures.rows), count - composed)
        captions = [self.pictures.captions[i] for i in numbers]
        for i in drawn:
            worded = self.wordings.draw if rng.random() < LOOSE else caption
            captions.append(worded(self.pictures.rows[i], rng))
        places = np.array(self.pictures.drawn)[drawn]
        return np.concatenate([self.pictures.composed + numbers, places]), captions

    def tokens(self, captions: list[str]) -> dict[str, Tensor]:
        """Ids and mask, (N, TEXT_TOKENS) each."""
        found = self.words(
            captions, return_tensors="pt", padding="max_length", truncation=True,
            max_length=TEXT_TOKENS,
        )  # fmt: skip
        return {name: tensor.to(self.device) for name, tensor in found.items()}

    def bits(
        self, numbers: np.ndarray, kind: Batch, flip: Callable[[int, Tensor], Tensor] | None
    ) -> tuple[Tensor, Tensor]:
        """Inputs (B, L - 1, d) and target bits (B, L, d)."""
        latents = self.latents[kind.pixels][torch.from_numpy(numbers).to(self.device)]
        q = quantise_latents(latents, sizes_of(kind.pixels), flip)
        inputs = [map_to_tokens(x, patchify=False) for x in q.inputs[: kind.scales - 1]]
        targets = [map_to_tokens(b, patchify=False) for b in q.bits[: kind.scales]]
        return torch.cat(inputs, dim=1), torch.cat(targets, dim=1)


class Model(nn.Module):
    """Transformer and text encoder as they are trained together."""

    def __init__(self, preset: ModelPreset, weights: Weights, device: torch.device):
        super().__init__()
        assert preset.text is not None
        self.transformer = Infinity(preset.transformer, preset.tokenizer.token_bits)
        self.transformer.load_state_dict(weights.transformer)
        self.text = text_encoder(preset.text.vocabulary, preset.transformer.text_width)
        self.text.load_state_dict(weights.text)
        self.to(device)
        schedule = schedule_for("1:1", CLASSES[0])  # the shorter one is its beginning
        self.teacher = Teacher(self.transformer, schedule, device, fused=True)

    def losses(
        self, tokens: dict[str, Tensor], dropped: Tensor, inputs: Tensor, targets: Tensor
    ) -> Tensor:
        """Loss (L,) of each token; `dropped` (B,) says whose text is left out."""
        with torch.autocast(inputs.device.type, torch.bfloat16):
            seen = self.text(**tokens).last_hidden_state.float()
            unconditional = self.transformer.unconditional(TEXT_TOKENS).expand_as(seen)
            rows = torch.where(dropped[:, None, None], unconditional, seen)
            mask = tokens["attention_mask"][:, None, None].bool()
            text = TextRows(self.transformer.text_norm(rows), mask)
            logits = self.teacher.logits(text, inputs)
        return bit_losses(logits, targets)

    def by_scale(self, per_token: Tensor) -> Tensor:
        """Mean loss of each scale that (L,) reaches to."""
        ends = [end for end in self.teacher.ends if end <= len(per_token)]
        begins = [0, *ends[:-1]]
        return torch.stack([per_token[b:e].mean() for b, e in zip(begins, ends, strict=True)])

    def loss(self, per_token: Tensor, first: int) -> Tensor:
        """One number, of the scales from `first` on."""
        begin = self.teacher.schedule.before(first)
        weights = self.teacher.weights[begin : len(per_token)]
        return (per_token[begin:] * weights).sum() / weights.sum()


def flipper(noise: torch.Generator) -> Callable[[int, Tensor], Tensor]:
    """Flips a share of every picture's bits, another one a scale, up to FLIPS."""

    def flip(scale: int, bits: Tensor) -> Tensor:
        shape, place = (len(bits), 1, 1, 1), bits.device
        share = torch.rand(shape, generator=noise, device=place) * FLIPS
        return bits ^ (torch.rand(bits.shape, generator=noise, device=place) < share)

    return flip


def held_out_losses(model: Model, batches: Batches, batch: int) -> dict[str, list[float]]:
    """Loss by scale over held-out drawings without flips, by pixel class.

    Not compiled, which would take longer than the measurement; and with gradients on, so that what
    is measured goes the way that is trained, not the one that generates.
    """
    pictures = batches.pictures
    rows, places = pictures.held_rows[:HELD], pictures.held[:HELD]
    found: dict[str, list[float]] = {}
    for kind in (WHOLE, Batch("0.06M", 7, 1)):
        sums = []
        for begin in range(0, len(rows), batch):
            its = rows[begin : begin + batch]
            numbers = np.array(places[begin : begin + batch])
            tokens = batches.tokens([prompt(row) for row in its])
            none = torch.zeros(len(its), dtype=torch.bool, device=batches.device)
            with torch.compiler.set_stance("force_eager"):
                per_token = model.losses(tokens, none, *batches.bits(numbers, kind, None))
            sums.append(model.by_scale(per_token.detach()) * len(its))
        found[kind.pixels] = [round(v, 4) for v in (torch.stack(sums).sum(0) / len(rows)).tolist()]
    return found


def train(
    pictures: Pictures,
    vae: dict[str, Tensor],
    weights: Weights,
    preset: ModelPreset,
    work: Path,
    out: Path,
    *,
    device: torch.device,
    seconds: float,
    deadline: float,
    batch: int,
    rate: float,
    compiled: bool,
    stop: Stop,
) -> dict[str, Any]:
    """Train, or go on training, for so many seconds in all (see `TimeLimit`); what was measured."""
    tokenizer = Autoencoder(preset.tokenizer).to(device).eval()
    tokenizer.load_state_dict(vae)
    latents = {p: encoded(tokenizer, pictures.images, p, device, batch) for p in CLASSES}
    batches = Batches(pictures, latents, device)
    model = Model(preset, weights, device)
    parameters = dict(model.named_parameters())
    optimizers = optimizers_for(parameters, rate)
    average = Averaged(parameters, DECAY)
    checkpoint = work / "transformer.pt"
    state = load_checkpoint(checkpoint)
    step, spent = 0, 0.0
    log: dict[str, Any] = {"steps": [], "pictures": 0}
    if state is not None:
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        average.values = {n: state["average"][n].to(device) for n in parameters}
        step, spent, log = state["step"], state["spent"], state["log"]
    if "before" not in log:
        log["before"] = held_out_losses(model, batches, batch)
    if compiled:
        model.teacher.compile()
        warm_up(model, batches, batch)
    clock = TimeLimit(seconds, spent, deadline)

    def save(done: bool) -> None:
        save_checkpoint(
            checkpoint,
            {
                "model": model.state_dict(),
                "average": average.values,
                "optimizers": [o.state_dict() for o in optimizers],
                "step": step,
                "spent": seconds if done else clock.spent,
                "log": log,
            },
        )
        parts: dict[str, dict[str, Tensor]] = {"transformer": {}, "text": {}}
        for name, value in average.values.items():
            part, rest = name.split(".", 1)
            parts[part][rest] = value
        save_transformer(out, parts["transformer"], WHOLE.scales)
        save_tensors(out / TEXT, parts["text"], WHOLE.scales)

    kinds, shares = list(KINDS), list(KINDS.values())
    due, seen = Every(60), {kind: torch.zeros(kind.scales + 1, device=device) for kind in kinds}
    while (share := clock.share) < 1 and not stop.asked:
        rng = np.random.default_rng((5, step))
        noise = torch.Generator(device).manual_seed(step)
        alone = weights.scales < WHOLE.scales and share < NEW_ALONE
        kind = WHOLE if alone else kinds[int(rng.choice(len(kinds), p=shares))]
        numbers, captions = batches.chosen(batch * kind.times, rng)
        dropped = torch.from_numpy(rng.random(len(captions)) < TEXT_DROPPED).to(device)
        inputs, targets = batches.bits(numbers, kind, None if alone else flipper(noise))
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * rate_at(share, step)
        per_token = model.losses(batches.tokens(captions), dropped, inputs, targets)
        loss = model.loss(per_token, weights.scales if alone else 0)
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters.values(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        average.update(parameters, step)
        step += 1
        log["pictures"] += len(captions)
        seen[kind] += torch.cat([model.by_scale(per_token.detach()), torch.ones(1, device=device)])
        if step % 50 == 0 or due():
            report(log, step, share, seen)
            save(done=False)
    report(log, step, clock.share, seen)
    save(done=clock.share >= 1)
    stop.leave()
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(average.values[name])
    log["held_out"] = held_out_losses(model, batches, batch)
    print(f"transformer: held-out {log['before']} to {log['held_out']}", file=sys.stderr)
    return log


def warm_up(model: Model, batches: Batches, batch: int) -> None:
    """Compile for the lengths that are to come, before the stage's time begins."""
    for kind in {kind.scales: kind for kind in KINDS}.values():
        numbers, captions = batches.chosen(batch * kind.times, np.random.default_rng(0))
        none = torch.zeros(len(captions), dtype=torch.bool, device=batches.device)
        per_token = model.losses(batches.tokens(captions), none, *batches.bits(numbers, kind, None))
        model.loss(per_token, 0).backward()
    model.zero_grad(set_to_none=True)


def report(log: dict[str, Any], step: int, share: float, seen: dict[Batch, Tensor]) -> None:
    """Keep and print what the last steps came to, and begin anew."""
    for kind, sums in seen.items():
        if not (count := float(sums[-1])):
            continue
        losses = [round(value, 4) for value in (sums[:-1] / count).tolist()]
        if not np.isfinite(losses).all():
            raise SystemExit(f"transformer: a loss is not finite at step {step}: {losses}")
        row = {"step": step, "share": round(share, 3), "pixels": kind.pixels, "losses": losses}
        log["steps"].append(row)
        print(f"transformer {row}", file=sys.stderr, flush=True)
        sums.zero_()
