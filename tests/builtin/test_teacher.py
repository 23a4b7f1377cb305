"""Attention by a fused kernel a scale is what the written-out block-causal attention is."""

from __future__ import annotations

import pytest
import torch

from scalekv.configs.models import model_named
from scalekv.infinity_patch.model.text_rows import TextRows
from scalekv.infinity_patch.model.transformer import (
    CrossAttention,
    Infinity,
    SelfAttention,
)
from scalekv.infinity_patch.schedules import schedule_for
from scripts.builtin.teacher import Teacher
from scripts.builtin.train_transformer import initialise


@pytest.mark.parametrize("scales", [5, 7])
def test_both_ways_give_the_same_logits_and_gradients(
    monkeypatch: pytest.MonkeyPatch, scales: int
) -> None:
    for kind in (SelfAttention, CrossAttention):  # put back after the test
        monkeypatch.setattr(kind, "forward", kind.forward)
    torch.manual_seed(0)
    preset = model_named("emoji")
    schedule = schedule_for("1:1", "0.06M")
    model = Infinity(preset.transformer, preset.tokenizer.token_bits)
    initialise(model)
    length = sum(schedule.tokens[:scales])
    inputs = torch.randn(2, length - 1, 16)
    text = TextRows(torch.randn(2, 8, 256), (torch.arange(8) < 5).expand(2, 1, 1, 8))
    found = []
    for fused in (False, True):
        teacher = Teacher(model, schedule, torch.device("cpu"), fused=fused)
        model.zero_grad()
        logits = teacher.logits(text, inputs)
        logits.square().mean().backward()
        gradient = model.blocks[3].sa.mat_qkv.weight.grad
        assert gradient is not None
        found.append((logits.detach(), gradient.clone()))
    (written, its), (fused_one, other) = found
    assert written.shape == (2, length, 16, 2)
    assert torch.allclose(written, fused_one, atol=1e-4)
    assert torch.allclose(its, other, atol=1e-5 * float(its.abs().max()) + 1e-7)
