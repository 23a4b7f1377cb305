"""Convolutional encoder and decoder of the picture tokenizer, under the official tensor names.

Knows pictures and latent maps; nothing of bits, scales or the transformer. Shape and names follow
the published Infinity autoencoder (arXiv 2412.04431): convolutions and norms sit one level deeper
than in LDM (`conv1.conv.weight`, `norm1.norm.weight`).
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scalekv.configs.spec import TokenizerSpec

NORM_EPS = 1e-6


class Conv(nn.Module):
    """A 2-D convolution one level down, as the published checkpoints name it."""

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int = 1, padding: int = 0):
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, kernel, stride, padding)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return out


class Norm(nn.Module):
    """Group norm of 32 groups, 24 where 32 does not divide the channels."""

    def __init__(self, channels: int):
        super().__init__()
        groups = 32 if channels % 32 == 0 else 24
        self.norm = nn.GroupNorm(groups, channels, eps=NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(x)
        return out


class ResidualBlock(nn.Module):
    """norm, SiLU, 3x3 twice, plus the input (through a 1x1 where the width changes)."""

    def __init__(self, c_in: int, c_out: int):
        super().__init__()
        self.norm1 = Norm(c_in)
        self.conv1 = Conv(c_in, c_out, 3, padding=1)
        self.norm2 = Norm(c_out)
        self.conv2 = Conv(c_out, c_out, 3, padding=1)
        self.nin_shortcut = Conv(c_in, c_out, 1) if c_in != c_out else None

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        out: Tensor = h + (x if self.nin_shortcut is None else self.nin_shortcut(x))
        return out


class Downsample(nn.Module):
    """Half the size: pad right and bottom by one, 3x3 with stride 2."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = Conv(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(F.pad(x, (0, 1, 0, 1)))
        return out


class Upsample(nn.Module):
    """Twice the size: nearest neighbour, then 3x3."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = Conv(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return out


class Middle(nn.Module):
    """Two residual blocks at the smallest size; the published models have no attention here."""

    def __init__(self, channels: int):
        super().__init__()
        self.block_1 = ResidualBlock(channels, channels)
        self.block_2 = ResidualBlock(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.block_2(self.block_1(x))
        return out


class Level(nn.Module):
    """The residual blocks of one size, with what changes the size after them."""

    def __init__(self, widths: list[int]):
        super().__init__()
        self.block = nn.ModuleList(ResidualBlock(c_in, c_out) for c_in, c_out in pairwise(widths))
        self.downsample: Downsample | None = None
        self.upsample: Upsample | None = None

    def forward(self, x: Tensor) -> Tensor:
        for block in self.block:
            x = block(x)
        if self.downsample is not None:
            x = self.downsample(x)
        if self.upsample is not None:
            x = self.upsample(x)
        return x


class Encoder(nn.Module):
    """(B, 3, H, W) in [-1, 1] to (B, bits, H / stride, W / stride)."""

    def __init__(self, spec: TokenizerSpec):
        super().__init__()
        widths = [spec.ch * m for m in spec.ch_mult]
        self.conv_in = Conv(3, spec.ch, 3, padding=1)
        self.down = nn.ModuleList()
        before = spec.ch
        for i, width in enumerate(widths):
            level = Level([before] + [width] * spec.res_blocks)
            if i < len(widths) - 1:
                level.downsample = Downsample(width)
            self.down.append(level)
            before = width
        self.mid = Middle(before)
        self.norm_out = Norm(before)
        self.conv_out = Conv(before, spec.bits, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv_in(x)
        for level in self.down:
            h = level(h)
        h = self.mid(h)
        out: Tensor = self.conv_out(F.silu(self.norm_out(h)))
        return out


class Decoder(nn.Module):
    """(B, bits, h, w) to (B, 3, h * stride, w * stride), not clamped."""

    def __init__(self, spec: TokenizerSpec):
        super().__init__()
        widths = [spec.ch * m for m in spec.ch_mult]
        before = widths[-1]
        self.conv_in = Conv(spec.bits, before, 3, padding=1)
        self.mid = Middle(before)
        levels: list[Level] = []
        for i in reversed(range(len(widths))):
            level = Level([before] + [widths[i]] * (spec.res_blocks + 1))
            if i > 0:
                level.upsample = Upsample(widths[i])
            levels.insert(0, level)  # names count from the largest size: up.0 runs last
            before = widths[i]
        self.up = nn.ModuleList(levels)
        self.norm_out = Norm(before)
        self.conv_out = Conv(before, 3, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        h = self.mid(self.conv_in(z))
        for level in reversed(self.up):
            h = level(h)
        out: Tensor = self.conv_out(F.silu(self.norm_out(h)))
        return out


class Autoencoder(nn.Module):
    """Encoder and decoder of one tokenizer; the quantiser between them has no weights."""

    def __init__(self, spec: TokenizerSpec):
        super().__init__()
        self.spec = spec
        self.encoder = Encoder(spec)
        self.decoder = Decoder(spec)

    def encode(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] to latent maps (B, bits, h, w), before quantisation."""
        out: Tensor = self.encoder(images)
        return out

    def decode(self, latent: Tensor) -> Tensor:
        """Summed codes (B, bits, h, w) to pictures (B, 3, H, W) clamped to [-1, 1]."""
        return torch.clamp(self.decoder(latent), -1, 1)
