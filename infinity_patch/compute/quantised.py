"""Linear layers whose weights are held in 8 bits, each row of them with a scale of its own.

What is multiplied is what the weights stand for, in the dtype of the products: it is written out
for one product, or for one block's, and forgotten. Knows tensors and modules; nothing of models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

KINDS = {"int8": torch.int8, "fp8": torch.float8_e4m3fn}
"""How weights are held, by the names that people use."""
MOST = {torch.int8: 127.0, torch.float8_e4m3fn: 448.0}
"""The largest number of each."""
PIECE = 1 << 22
"""Numbers that are quantised at a time: what that takes besides its result stays small."""


def quantised(weight: Tensor, kind: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """A weight (out, in) as whole rows of 8-bit numbers and a scale a row, on a device.

    The largest number of a row becomes the largest of its kind, and the others the nearest. Scales
    are numbers that bf16 has, so that products in bf16 lose nothing of them. What is not finite
    makes its row not finite.

    Returns:
        (out, in) of `kind`, and (out,) float32.
    """
    held = torch.empty(weight.shape, dtype=kind, device=device)
    scale = torch.empty(len(weight), dtype=torch.float32, device=device)
    step = max(PIECE // weight.shape[1], 1)
    for start in range(0, len(weight), step):
        rows = slice(start, start + step)
        piece = weight[rows].to(device, torch.float32, copy=True)
        factor = (piece.abs().amax(1) / MOST[kind]).bfloat16().float()
        factor = torch.where(factor == 0, 1, factor)
        piece.div_(factor[:, None])
        if kind is torch.int8:
            piece.round_()
        held[rows] = piece.clamp_(-MOST[kind], MOST[kind]).to(kind)
        scale[rows] = factor
    return held, scale


class WritingRoom:
    """Memory that weights are written out in. On a CPU it is kept for the next ones: getting new
    pages takes several times as long as filling them. Elsewhere torch's allocator keeps it."""

    def __init__(self) -> None:
        self._kept: Tensor | None = None

    def room(self, numbers: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        """(numbers,) to write to; on a CPU the same ones at every call."""
        if device.type != "cpu" or torch.is_grad_enabled():
            return torch.empty(numbers, dtype=dtype, device=device)
        kept = self._kept
        if kept is None or len(kept) < numbers or kept.dtype is not dtype:
            self._kept = None  # before there is another
            with torch.inference_mode(False):  # to be written to in and outside inference mode
                self._kept = kept = torch.empty(numbers, dtype=dtype, device=device)
        return kept[:numbers]


class QuantisedLinear(nn.Linear):
    """A linear layer with weights in 8 bits.

    Attributes:
        weight: (out, in) int8 or float8_e4m3fn; weight_scale: (out,) float32, times which a row
            is what it stands for.
        dtype: of the products, and of the bias.
    """

    weight_scale: Tensor

    def __init__(
        self, of: nn.Linear, kind: torch.dtype, dtype: torch.dtype, workspace: WritingRoom
    ):
        """
        Args:
            of: whose sizes, device and bias it has; the weight's numbers are still to be given.
            workspace: shared with the other layers of a model.
        """
        nn.Module.__init__(self)
        self.in_features, self.out_features = of.in_features, of.out_features
        self.dtype, self._workspace = dtype, workspace
        self._written: Tensor | None = None
        device = of.weight.device
        held = torch.empty(of.weight.shape, dtype=kind, device=device)
        scale = torch.empty(of.out_features, dtype=torch.float32, device=device)
        self.weight = nn.Parameter(held, requires_grad=False)
        self.register_parameter("weight_scale", nn.Parameter(scale, requires_grad=False))
        self.register_parameter("bias", of.bias)

    def forward(self, x: Tensor) -> Tensor:
        """x (…, in) to (…, out) in the dtype of the products, for those who call it as a module."""
        return nn.functional.linear(x.to(self.dtype), self.written(), self.bias)

    def written(self, first: int | None = None) -> Tensor:
        """(first or out, in) what the weights stand for, in the dtype of the products. On a CPU it
        holds until any layer of the model is asked for the same."""
        if self._written is not None:
            return self._written[:first]
        held, scale = self.weight[:first], self.weight_scale[:first]
        room = self._workspace.room(held.numel(), self.dtype, held.device)
        return _write(held, scale, room.view(held.shape))

    @staticmethod
    @contextmanager
    def all_written(layers: Iterable[nn.Module]) -> Iterator[None]:
        """Inside, the weights of those of the layers that are such ones are written out once, for
        however many products."""
        ours = [layer for layer in layers if isinstance(layer, QuantisedLinear)]
        if not ours:
            yield
            return
        first, sizes = ours[0], [layer.weight.numel() for layer in ours]
        room = first._workspace.room(sum(sizes), first.dtype, first.weight.device)
        try:
            for layer, part in zip(ours, room.split(sizes), strict=True):
                layer._written = _write(
                    layer.weight, layer.weight_scale, part.view(layer.weight.shape)
                )
            yield
        finally:
            for layer in ours:
                layer._written = None


def hold_linear_layers(
    of: nn.Module, kind: torch.dtype, dtype_of: Callable[[str], torch.dtype]
) -> None:
    """Has a module's linear layers hold 8-bit weights, whose numbers are still to be given.

    Args:
        dtype_of: of the products of a layer, by its name.
    """
    room = WritingRoom()
    for name, layer in list(of.named_modules()):
        if type(layer) is nn.Linear:
            of.set_submodule(name, QuantisedLinear(layer, kind, dtype_of(name), room))


def _write(held: Tensor, scale: Tensor, out: Tensor) -> Tensor:
    """What is held times its scales, rounded once."""
    factor = scale.unsqueeze(1)
    if held.dtype is torch.int8 and out.device.type != "cpu":
        return torch.mul(held, factor, out=out)  # in one kernel
    if out.dtype is not torch.float16:  # which may not have the scales
        factor = factor.to(out.dtype)
    return out.copy_(held).mul_(factor)
