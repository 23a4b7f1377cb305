"""Counted operations are those of the modules."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from scalekv.infinity_patch.model.autoencoder import Autoencoder
from scalekv.infinity_patch.schedules import schedule_for
from scripts.builtin.flops import attention, forward, products, tokenizer
from scripts.builtin.gpu.start import next_preset


def counted(module: torch.nn.Module, x: torch.Tensor) -> int:
    with FlopCounterMode(display=False) as counter, torch.enable_grad():
        module(x)
    return int(counter.get_total_flops())


def test_the_tokenizers_are_its_convolutions() -> None:
    spec = next_preset().tokenizer
    with torch.device("meta"):
        model = Autoencoder(spec)
        found = counted(model.encoder, torch.empty(1, 3, 64, 64))
        found += counted(model.decoder, torch.empty(1, spec.bits, 8, 8))
    assert tokenizer(spec, 64) == pytest.approx(found, rel=1e-6)


def test_the_transformers_are_its_matrices_and_the_pairs_that_see_each_other() -> None:
    spec = next_preset().transformer
    schedule = schedule_for("1:1", "0.25M")
    seen = [sum(schedule.tokens[: k + 1]) for k in range(len(schedule.tokens))]
    pairs = sum(n * s for n, s in zip(schedule.tokens, seen, strict=True))
    assert attention(spec, schedule) == 2 * 2 * pairs * spec.width * spec.depth
    block = 4 * 256 * 256 + 2 * 256 * 256 + 2 * 256 * 32 + 8 * 256 * 256
    assert products(spec, schedule, 16) == 2 * 2521 * (7 * block + 3 * 16 * 256)
    one = forward(spec, next_preset().tokenizer, "0.25M")
    assert one.trained == 3 * (one.products + one.attention)
