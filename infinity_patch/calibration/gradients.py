"""How the bits of a picture's last scale answer to errors in what is cached: gradients of a random
sum of their probabilities. Knows the transformer; nothing of what the gradients are for.

Blocks are computed anew one by one on the way back, so that no more than one block's activations
are there at a time, beside every block's input and a copy of the keys and values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from scalekv.infinity_patch.asked.settled import Settled
from scalekv.infinity_patch.loading.loader import Pipeline
from scalekv.infinity_patch.model.attention import project, queries_keys_values
from scalekv.infinity_patch.model.sampling import probabilities
from scalekv.infinity_patch.model.transformer import Condition, mix_halves

Taker = Callable[[int, int, Tensor], None]
"""(layer, 0 for keys or 1 for values, (B, H, T, D)) of gradients with respect to a history."""


class LastScaleGradients:
    """Watches a model draw; at each picture's last scale it hands on gradients."""

    def __init__(self, pipeline: Pipeline, settled: Settled, take: Taker) -> None:
        self._model, self._settled, self._take = pipeline.model, settled, take
        self._history = settled.schedule.history
        self._copies: dict[int, tuple[Tensor, Tensor]] = {}
        self._generator = torch.Generator().manual_seed(0)

    def seen(self, layer: int, k: Tensor, v: Tensor) -> None:
        """Takes a copy of a layer's history at the last scale, of k and v (B, H, T, D): their
        memory may be the next layer's."""
        with torch.inference_mode(False):  # what inference mode made cannot be differentiated
            k, v = (x[:, :, : self._history].clone() for x in (k, v))
        self._copies[layer] = k, v

    @contextmanager
    def watching(self) -> Iterator[None]:
        """A block in which the model draws."""
        forward = self._model.forward_scale

        def watched(x: Tensor, scale: int, condition: Condition, *rest: Any) -> Tensor:
            if scale + 1 < len(self._settled.schedule):
                return forward(x, scale, condition, *rest)
            with torch.inference_mode(False):
                before = x.clone()  # x is written over
            after = forward(x, scale, condition, *rest)
            with torch.inference_mode(False), torch.enable_grad():
                self._differentiate(forward, before, scale, condition, *rest)
            self._copies.clear()
            return after

        self._model.__dict__["forward_scale"] = watched
        try:
            yield
        finally:
            del self._model.__dict__["forward_scale"]

    def _differentiate(
        self, forward: Any, x: Tensor, scale: int, condition: Condition, *rest: Any
    ) -> Tensor:
        """Hands on the gradients of a sum, and gives it."""
        condition = _copied(condition)
        with _differentiable(self._model, self._leaves()):
            logits = self._model.logits(forward(x, scale, condition, *rest), condition)
            logits = logits / self._settled.tau[scale]
            if self._settled.guided:
                mixed = len(rest) > 2 and rest[2] is not None
                logits = (
                    logits.chunk(2)[0] if mixed else mix_halves(logits, self._settled.cfg[scale])
                )
            p = probabilities(logits, self._settled.top_p)[..., 1]
            signs = torch.randint(0, 2, p.shape, generator=self._generator) * 2 - 1
            total = (p * signs.to(p.device)).sum()
            total.backward()
        return total.detach()

    def _leaves(self) -> list[tuple[Tensor, Tensor]]:
        """Of every layer its history, whose gradients go on as soon as they are known."""
        for layer, pair in self._copies.items():
            for which, leaf in enumerate(pair):
                leaf.requires_grad_(True)
                leaf.register_post_accumulate_grad_hook(partial(self._handed, layer, which))
        return [self._copies[layer] for layer in range(len(self._copies))]

    def _handed(self, layer: int, which: int, leaf: Tensor) -> None:
        assert leaf.grad is not None
        with torch.no_grad():
            self._take(layer, which, leaf.grad)
        leaf.grad = None


@contextmanager
def _differentiable(model: nn.Module, leaves: list[tuple[Tensor, Tensor]]) -> Iterator[None]:
    """The model's blocks attend to these histories, and are computed anew on the way back."""
    blocks: list[Any] = model.blocks  # type: ignore[assignment]
    patched = [block.sa.__dict__.get("forward") for block in blocks]
    try:
        for block, (k, v) in zip(blocks, leaves, strict=True):
            block.sa.__dict__["forward"] = partial(_attention, block.sa, k, v)
            block.__dict__["forward"] = partial(checkpoint, block.forward, use_reentrant=False)
        yield
    finally:
        for block, forward in zip(blocks, patched, strict=True):
            block.__dict__.pop("forward", None)
            block.sa.__dict__["forward"] = forward


def _attention(
    sa: Any,
    k_old: Tensor,
    v_old: Tensor,
    x: Tensor,
    attn_bias_or_two_vector: Any = None,
    attn_fn: Any = None,
    scale_schedule: Any = (),
    rope2d_freqs_grid: Any = None,
    scale_ind: int = 0,
) -> Tensor:
    """A self-attention module's forward with its history handed in."""
    q, k, v = queries_keys_values(sa, x, scale_schedule, rope2d_freqs_grid, scale_ind)
    keys, values = torch.cat((k_old, k), dim=2), torch.cat((v_old, v), dim=2)
    return project(sa, F.scaled_dot_product_attention(q, keys, values, scale=1.0))


def _copied(condition: Condition) -> Condition:
    return Condition(
        condition.start.clone(),
        [table.clone() for table in condition.modulation],
        (condition.head[0].clone(), condition.head[1].clone()),
        [(k.clone(), v.clone()) for k, v in condition.memory],
        None if condition.mask is None else condition.mask.clone(),
    )
