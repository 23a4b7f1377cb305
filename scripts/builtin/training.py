"""What the trainings share: optimizers, averaged weights, learning rates, resumable checkpoints."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from scalekv.configs.whole_files import replacing


class Averaged:
    """Exponential moving average of a set of named parameters, with a warm-up of the decay."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float):
        self.decay = decay
        self.values = {name: p.detach().float().clone() for name, p in parameters.items()}

    @torch.no_grad()
    def update(self, parameters: Mapping[str, nn.Parameter], step: int) -> None:
        """Move every average towards its parameter."""
        decay = min(self.decay, (1 + step) / (10 + step))
        names = list(self.values)
        torch._foreach_lerp_(
            [self.values[n] for n in names],
            [parameters[n].detach().float() for n in names],
            1 - decay,
        )


def optimizers_for(
    parameters: Mapping[str, nn.Parameter], rate: float
) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks of transformer and text encoder, AdamW for the rest."""
    matrices = [
        p for n, p in parameters.items() if p.ndim == 2 and (".module." in n or ".block." in n)
    ]
    ids = {id(p) for p in matrices}
    others = [p for p in parameters.values() if id(p) not in ids]
    return [
        torch.optim.Muon(matrices, lr=rate, weight_decay=0.02, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.97), weight_decay=0.0),
    ]


def bit_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross entropy (L,) a token of logits (B, L, d, 2) against bits (B, L, d)."""
    logits = logits.float()
    difference = logits[..., 1] - logits[..., 0]
    each = F.binary_cross_entropy_with_logits(difference, targets.float(), reduction="none")
    return each.mean((0, 2))


def learning_rate(step: int, steps: int, peak: float, warmup: int, floor: float = 0.02) -> float:
    """Linear warm-up, then a cosine down to `floor` times the peak."""
    if step < warmup:
        return peak * (step + 1) / warmup
    part = min(1.0, (step - warmup) / max(1, steps - warmup))
    return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * part)))


def held_rate(step: int, steps: int, peak: float, warmup: int, cooldown: int) -> float:
    """Linear warm-up, then the peak, then linearly to nothing over the last `cooldown` steps."""
    return peak * min(1.0, (step + 1) / warmup, (steps - step) / cooldown)


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as hidden:
        torch.save(state, hidden)


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """The checkpoint at `path`, or None where there is none; tensors and numbers only."""
    if not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
    return state


def shipped(
    tensors: Mapping[str, Tensor], dtype: torch.dtype = torch.bfloat16
) -> dict[str, Tensor]:
    """Tensors as they are shipped: contiguous, in bfloat16."""
    return {name: t.detach().to(dtype).contiguous() for name, t in tensors.items()}


def in_float(path: Path) -> dict[str, Tensor]:
    """The tensors of a shipped file, in float32."""
    return {name: tensor.float() for name, tensor in load_file(path).items()}
