"""Multi-scale binary spherical quantisation: latent maps to bits per scale, and back.

Knows latent maps, bits and the sizes of scales; nothing of pictures, weights or the transformer.
Notation: a token map is (B, h, w, d) with d bits a token; a VAE map is (B, b, H, W) with b bits a
code. Without patchify they have the same size; with it a token carries a 2 x 2 block of codes
(d = 4 b, H = 2 h, W = 2 w). Source: arXiv 2412.04431, sections 3.2 and 3.3.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Sizes = Sequence[tuple[int, int]]
"""Heights and widths of the VAE maps of the scales, coarse to fine."""


def vae_sizes(scales: Sequence[tuple[int, int]], patchify: bool) -> list[tuple[int, int]]:
    """Sizes of the VAE maps that belong to token maps of the sizes `scales`."""
    factor = 2 if patchify else 1
    return [(h * factor, w * factor) for h, w in scales]


def resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Trilinear interpolation of (B, C, H, W) to `size`, taken on (1, H, W) as the model does."""
    if tuple(x.shape[-2:]) == size:
        return x
    return F.interpolate(x.unsqueeze(2), size=(1, *size), mode="trilinear").squeeze(2)


def shrink(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Area interpolation of (B, C, H, W) to `size`."""
    if tuple(x.shape[-2:]) == size:
        return x
    return F.interpolate(x.unsqueeze(2), size=(1, *size), mode="area").squeeze(2)


def codes(bits: Tensor) -> Tensor:
    """Bits (B, b, H, W) of 0 and 1 to codes on the unit sphere, (2 bit - 1) / sqrt(b), float32."""
    return (bits.to(torch.float32) * 2 - 1) / math.sqrt(bits.shape[1])


def tokens_to_map(bits: Tensor, patchify: bool) -> Tensor:
    """Token bits (B, h, w, d) to a VAE map of bits (B, b, H, W)."""
    bits = bits.permute(0, 3, 1, 2)
    return F.pixel_shuffle(bits, 2) if patchify else bits


def map_to_tokens(x: Tensor, patchify: bool) -> Tensor:
    """A VAE map (B, b, H, W), of bits or values, to tokens in row order, (B, h * w, d)."""
    if patchify:
        x = F.pixel_unshuffle(x, 2)
    return x.flatten(2).transpose(1, 2)


@dataclass(frozen=True)
class ScaleBits:
    """What a latent map becomes.

    bits:   per scale, (B, b, H_k, W_k) uint8: what the model is to predict
    inputs: per scale from the second on, (B, b, H_k, W_k) float32: what it sees when it predicts
    total:  (B, b, H, W) float32: the sum of all codes, for the decoder
    """

    bits: list[Tensor]
    inputs: list[Tensor]
    total: Tensor


def quantise_latents(
    latent: Tensor, sizes: Sizes, flip: Callable[[int, Tensor], Tensor] | None = None
) -> ScaleBits:
    """Quantise encoder output (B, b, H, W) scale by scale, each on what the coarser ones left.

    `sizes` are VAE map sizes, the last one that of `latent`. `flip(k, bits)` may return changed
    bits to build on (bitwise self-correction, training only); the targets of later scales then
    correct the change.
    """
    size = (latent.shape[-2], latent.shape[-1])
    assert tuple(sizes[-1]) == size, (sizes[-1], size)
    latent = latent.to(torch.float32)
    total = torch.zeros_like(latent)
    bits: list[Tensor] = []
    inputs: list[Tensor] = []
    for k, here in enumerate(sizes):
        if k:
            inputs.append(resize(total, here))
        unit = F.normalize(shrink(latent - total, here), dim=1)
        target = (unit > 0).to(torch.uint8)
        used = target if flip is None else flip(k, target)
        code = codes(used)
        total = total + resize(code, size)
        bits.append(target)
    return ScaleBits(bits=bits, inputs=inputs, total=total)
